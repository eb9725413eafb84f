package policy

import (
	"strings"
	"testing"
)

func TestParseSignature(t *testing.T) {
	for _, c := range []struct{ text, want, selector string }{
		{"mint(address,uint256)", "mint(address,uint256)", "0x40c10f19"},
		{"mint(address,uint)", "mint(address,uint256)", "0x40c10f19"},
		{"function mint(address to, uint256 amount)", "mint(address,uint256)", "0x40c10f19"},
		{"function mint(address to, uint amount) external payable returns (bool ok, IERC20 token);", "mint(address,uint256)",
			"0x40c10f19"},
		{" mint ( address\n\t, uint256 ) ", "mint(address,uint256)", "0x40c10f19"},
		{"function mint(address payable to, uint256 _amount) public virtual override nonpayable", "mint(address,uint256)",
			"0x40c10f19"},
		{"claim()", "claim()", "0x4e71d92d"},
		{"multicall(bytes[] calldata data) payable returns (bytes[] memory results)", "multicall(bytes[])", "0xac9650d8"},
		{"permit(address owner, ((address token, uint160 amount, uint48 expiration, uint48 nonce) details, address " +
			"spender, uint sigDeadline) permitSingle, bytes signature)",
			"permit(address,((address,uint160,uint48,uint48),address,uint256),bytes)", "0x2b67b570"},
		{"permit(address, tuple(tuple(address,uint160,uint48,uint48)[] details, address, uint256) memory batch, bytes " +
			"calldata)",
			"permit(address,((address,uint160,uint48,uint48)[],address,uint256),bytes)", "0x2a2d80d1"},
		// These selectors are those that viem (2.57, toFunctionSelector) gives for the canonical form. It hashes
		// "uint" as it stands, so its selector for another form is wrong.
		{"f(int,uint8,int24,bytes1,bytes32,string,bool)", "f(int256,uint8,int24,bytes1,bytes32,string,bool)", "0x96a34379"},
		{"f(uint[],uint[2][],uint[][3] memory x)", "f(uint256[],uint256[2][],uint256[][3])", "0xe1d05e13"},
		{"f((uint,int)[4] a, tuple(bytes,(bool)) b)", "f((uint256,int256)[4],(bytes,(bool)))", "0xd087a523"},
		{"f(fixed,ufixed a,fixed8x0,ufixed256x80)", "f(fixed128x18,ufixed128x18,fixed8x0,ufixed256x80)", ""},
		{"f(byte,function cb)", "f(bytes1,function)", ""},
		{"$f_1(uint256[ 3 ] $x)", "$f_1(uint256[3])", "0x92c859d5"},
		{"tuple(bool)", "tuple(bool)", "0xea8ca604"},
		{"event(bool)", "event(bool)", "0x8e374e4f"},
		{"functions(bool)", "functions(bool)", ""},
		{"receive(address,uint)", "receive(address,uint256)", ""},
		{"function receive()", "receive()", ""},
	} {
		got, err := ParseSignature(c.text)
		if err != nil || got != c.want {
			t.Errorf("ParseSignature(%q) = %q, %v; want %q", c.text, got, err, c.want)
			continue
		}
		if selector := SelectorOf(got).String(); c.selector != "" && selector != c.selector {
			t.Errorf("%s has the selector %s, want %s", got, selector, c.selector)
		}
	}
}

// The table's signatures are canonical, so they are read as they are.
func TestParseSignatureOfKnownFunctions(t *testing.T) {
	for selector, want := range functionSignatures {
		got, err := ParseSignature(want)
		if err != nil || got != want || SelectorOf(got) != selector {
			t.Errorf("ParseSignature(%q) = %q, %v, selector %v; want %v", want, got, err, SelectorOf(got), selector)
		}
	}
}

func TestParseSignatureRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", `the signature ends where the function's name has to be`},
		{"mint", `the signature ends where "(" after the function's name has to be`},
		{"function (address)", `"(" in the signature, where the function's name has to be`},
		{"function", `ends where the function's name`},
		{"1mint(address)", `"1mint" in the signature, where the function's name`},
		{"mint(address", `ends where "," or ")" has to be`},
		{"mint(address,)", `")" in the signature, where a type has to be`},
		{"mint(,address)", `"," in the signature, where a type has to be`},
		{"mint(address))", `")" in the signature, where "external"`},
		{"mint(address uint256)", ``}, // a parameter of that name
		{"mint(address to uint256)", `"uint256" in the signature, where "," or ")" has to be`},
		{"mint(address,uint 256)", `"256" in the signature, where "," or ")"`},
		{"mint(adress)", `unknown type "adress"`},
		{"mint(Address)", `unknown type "Address" in the signature; did you mean "address"?`},
		{"mint(IERC20 token)", `unknown type "IERC20" in the signature: write a contract as address`},
		{"mint(uint7)", `unknown type "uint7"`},
		{"mint(uint264)", `unknown type "uint264"`},
		{"mint(uint08)", `unknown type "uint08"`},
		{"mint(uint0)", `unknown type "uint0"`},
		{"mint(bytes0)", `unknown type "bytes0"`},
		{"mint(bytes33)", `unknown type "bytes33"`},
		{"mint(fixed128)", `unknown type "fixed128"`},
		{"mint(fixed128x81)", `unknown type "fixed128x81"`},
		{"mint(uufixed128x18)", `unknown type "uufixed128x18"`},
		{"mint(address256)", `unknown type "address256"`},
		{"mint(uint256[)", `")" in the signature, where "]" or an array's length`},
		{"mint(uint256[03])", `"03" in the signature, where "]"`},
		{"mint(uint256[0])", `an array of length 0`},
		{"mint((bool)[3][0])", `an array of length 0`},
		{"mint(uint256 ß)", `"ß" in the signature, where "," or ")"`},
		{"mint(uint256[-1])", `"-" in the signature, where "]"`},
		{"mint(uint256[99999999999999999999])", `"99999999999999999999" in the signature`},
		{"mint(())", `no components`},
		{"mint(tuple)", `")" in the signature, where "(" after "tuple"`},
		{"mint(tuple uint256)", `"uint256" in the signature, where "(" after "tuple"`},
		{"mint(uint256[] storage x)", `"storage" in the signature`},
		{"event Minted(address indexed to)", `"event" declares no function`},
		{"error Nope(uint256)", `"error" declares no function`},
		{"constructor(address owner)", `"constructor" declares no function`},
		{"constructor() payable", `"constructor" declares no function`},
		{"receive() external payable", `"receive" declares no function`},
		{"fallback()", `"fallback" declares no function`},
		{"mint(address) internal", `"internal" in the signature: nobody outside`},
		{"mint(address) onlyOwner", `"onlyOwner" in the signature, where "external"`},
		{"mint(address) returns bool", `"bool" in the signature, where "(" after "returns"`},
		{"mint(address) returns (bool", `ends where ")" has to be`},
		{"mint(address); burn(address)", `"burn" in the signature, where the end has to be`},
		{"mint(address) {}", `"{" in the signature`},
		{"mint(adreß)", `unknown type "adre"`},
		{"mint(" + strings.Repeat("(", 20), `deeper than 16`},
		{"mint(" + strings.Repeat("bool,", 1000) + "bool)", `at most 4096 bytes, not 5010`},
		{"mint(" + strings.Repeat("ab", 32) + ")", `unknown type a text of 64 characters`},
	} {
		got, err := ParseSignature(c.text)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("ParseSignature(%q): %v", c.text, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("ParseSignature(%q) = %q, %v; want an error with %q", c.text, got, err, c.want)
		}
	}
}

// What is accepted is canonical: read again it is the same, whatever stands around it.
func FuzzParseSignature(f *testing.F) {
	for _, seed := range []string{
		"mint(address,uint256)", "function f(tuple(uint a,(bool,bytes32[2])[] b)[] calldata x) external returns (I)",
		"f(ufixed128x18)", "f(",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		canonical, err := ParseSignature(text)
		if err != nil {
			return
		}
		if strings.ContainsAny(canonical, " \t\r\n;") || len(canonical) > 3*len(text) {
			t.Fatalf("%q is read as %q", text, canonical)
		}
		for _, again := range []string{canonical, " function " + canonical + " external;",
			strings.ReplaceAll(canonical, ",", " x\n, ")} {
			if got, err := ParseSignature(again); err != nil || got != canonical {
				t.Fatalf("%q is read as %q, and %q as %q, %v", text, canonical, again, got, err)
			}
		}
	})
}
