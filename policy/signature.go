package policy

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxSignature      = 4096 // bytes
	maxSignatureDepth = 16   // of tuples in one another
)

// ParseSignature reads a function's signature as Solidity, viem and ethers write it, and returns its canonical form,
// whose hash begins with the selector (Solidity ABI specification, "Function Selector"):
//
//	function mint(address to, uint amount) external returns (bool)  is  mint(address,uint256)
//
// "function", names, data locations, modifiers, "returns" and ";" may be there or not. Tuples are written
// (uint256,bool) or tuple(uint256 a, bool b). What can't be resolved without the sources, the name of a struct,
// an enum or a contract, is an error.
func ParseSignature(text string) (string, error) {
	if len(text) > maxSignature {
		return "", fmt.Errorf("a signature has at most %d bytes, not %d", maxSignature, len(text))
	}
	p := signatureParser{rest: text}
	p.next()
	canonical, err := p.function()
	if err != nil {
		return "", err
	}
	return canonical, p.tail()
}

// SelectorOf returns the selector of a canonical signature.
func SelectorOf(canonical string) Selector {
	hash := keccak256([]byte(canonical))
	return Selector(hash[:4])
}

// signatureParser reads a signature token by token: a word, or one character that is in none.
type signatureParser struct {
	token string // "": the end
	rest  string // behind token
	depth int    // of the tuples around token
}

// next takes the next token.
func (p *signatureParser) next() {
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	n := 0
	for n < len(p.rest) && inWord(p.rest[n]) {
		n++
	}
	if n == 0 && p.rest != "" {
		_, n = utf8.DecodeRuneInString(p.rest) // whole, for an error that shows it
	}
	p.token, p.rest = p.rest[:n], p.rest[n:]
}

func inWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$'
}

// isName reports whether the token is an identifier.
func (p *signatureParser) isName() bool {
	return p.token != "" && inWord(p.token[0]) && (p.token[0] < '0' || p.token[0] > '9')
}

// accept takes the token if it is that one.
func (p *signatureParser) accept(token string) bool {
	if p.token != token {
		return false
	}
	p.next()
	return true
}

// unexpected is the error of a token that can't be here.
func (p *signatureParser) unexpected(want string) error {
	if p.token == "" {
		return fmt.Errorf("the signature ends where %s has to be", want)
	}
	return fmt.Errorf("%s in the signature, where %s has to be", shown(p.token), want)
}

// function reads a signature up to its parameters.
func (p *signatureParser) function() (string, error) {
	declared := p.accept("function")
	if !p.isName() {
		return "", p.unexpected("the function's name")
	}
	name := p.token
	p.next()
	switch {
	case p.isName() && (name == "event" || name == "error" || name == "modifier"), name == "constructor":
		return "", noFunction(name)
	case p.token != "(":
		return "", p.unexpected(`"(" after the function's name`)
	}
	parameters, err := p.tuple()
	if !declared && parameters == "()" && (name == "receive" || name == "fallback") {
		return "", noFunction(name)
	}
	return name + parameters, err
}

func noFunction(name string) error {
	return fmt.Errorf("%q declares no function, so there is no selector", name)
}

// tuple reads "(", parameters, and ")".
func (p *signatureParser) tuple() (string, error) {
	if p.depth++; p.depth > maxSignatureDepth {
		return "", fmt.Errorf("the signature's tuples are deeper than %d", maxSignatureDepth)
	}
	p.next()
	var types []string
	for !p.accept(")") {
		if len(types) > 0 && !p.accept(",") {
			return "", p.unexpected(`"," or ")"`)
		}
		kind, err := p.parameter()
		if err != nil {
			return "", err
		}
		types = append(types, kind)
	}
	p.depth--
	return "(" + strings.Join(types, ",") + ")", nil
}

// parameter reads a type, and a data location and a name if they are there.
func (p *signatureParser) parameter() (string, error) {
	kind, err := p.kind()
	if err != nil {
		return "", err
	}
	switch p.token {
	case "memory", "calldata":
		p.next()
	case "storage", "indexed":
		return "", fmt.Errorf("%q in the signature: no transaction can call a function with such a parameter", p.token)
	}
	if p.isName() {
		p.next()
	}
	return kind, nil
}

// kind reads a type and writes it canonically.
func (p *signatureParser) kind() (string, error) {
	kind, err := p.baseKind()
	if err != nil {
		return "", err
	}
	for p.accept("[") {
		if p.token == "0" {
			return "", fmt.Errorf("an array of length 0 in the signature: Solidity has none")
		}
		if _, err := strconv.ParseUint(p.token, 10, 64); err == nil && plainDigits(p.token) {
			kind += "[" + p.token + "]"
			p.next()
		} else {
			kind += "[]"
		}
		if !p.accept("]") {
			return "", p.unexpected(`"]" or an array's length`)
		}
	}
	return kind, nil
}

// baseKind reads a type that is no array.
func (p *signatureParser) baseKind() (string, error) {
	if p.accept("tuple") && p.token != "(" {
		return "", p.unexpected(`"(" after "tuple"`)
	}
	if p.token == "(" {
		if kind, err := p.tuple(); kind != "()" {
			return kind, err
		}
		return "", fmt.Errorf("a tuple in the signature has no components")
	}
	if !p.isName() {
		return "", p.unexpected("a type")
	}
	name := p.token
	kind, ok := elementaryType(name)
	if !ok {
		return "", unknownType(name)
	}
	p.next()
	if kind == "address" {
		p.accept("payable")
	}
	return kind, nil
}

// elementaryType writes an elementary type canonically; false if there is no such type (Solidity ABI specification,
// "Types").
func elementaryType(name string) (string, bool) {
	switch name {
	case "address", "bool", "string", "bytes", "function":
		return name, true
	case "uint", "int":
		return name + "256", true
	case "fixed", "ufixed":
		return name + "128x18", true
	case "byte":
		return "bytes1", true
	}
	letters := strings.TrimRight(name, "0123456789")
	size := name[len(letters):]
	switch letters {
	case "uint", "int":
		return name, sizeWithin(size, 8, 256, 8)
	case "bytes":
		return name, sizeWithin(size, 1, 32, 1)
	}
	if digits, ok := strings.CutPrefix(strings.TrimPrefix(name, "u"), "fixed"); ok {
		bits, decimals, _ := strings.Cut(digits, "x")
		return name, sizeWithin(bits, 8, 256, 8) && sizeWithin(decimals, 0, 80, 1)
	}
	return "", false
}

// sizeWithin reports whether the digits are a multiple of step from least to most.
func sizeWithin(digits string, least, most, step uint64) bool {
	n, err := strconv.ParseUint(digits, 10, 16)
	return err == nil && plainDigits(digits) && n >= least && n <= most && n%step == 0
}

func unknownType(name string) error {
	if kind, ok := elementaryType(strings.ToLower(name)); ok {
		return fmt.Errorf("unknown type %s in the signature; did you mean %q?", shown(name), kind)
	}
	return fmt.Errorf("unknown type %s in the signature: write a contract as address, an enum as uint8, "+
		"and a struct as the tuple of its members", shown(name))
}

// tail reads what follows the parameters. Nothing of it is part of the selector.
func (p *signatureParser) tail() error {
	for p.token != "" && p.token != ";" {
		switch p.token {
		case "external", "public", "pure", "view", "payable", "nonpayable", "constant", "virtual", "override":
			p.next()
		case "internal", "private":
			return fmt.Errorf("%q in the signature: nobody outside can call such a function", p.token)
		case "returns":
			p.next()
			if err := p.skipReturns(); err != nil {
				return err
			}
		default:
			return p.unexpected(`"external", "view", "payable", "returns" or the end`)
		}
	}
	if p.accept(";"); p.token != "" {
		return p.unexpected("the end")
	}
	return nil
}

// skipReturns takes what a function returns, of any type.
func (p *signatureParser) skipReturns() error {
	if p.token != "(" {
		return p.unexpected(`"(" after "returns"`)
	}
	for depth := 0; ; p.next() {
		switch p.token {
		case "":
			return p.unexpected(`")"`)
		case "(":
			depth++
		case ")":
			if depth--; depth == 0 {
				p.next()
				return nil
			}
		}
	}
}
