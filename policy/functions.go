package policy

import (
	"slices"
	"strings"
)

// functionSignatures are functions that a person knows by name, by selector.
var functionSignatures = map[Selector]string{
	{0xa9, 0x05, 0x9c, 0xbb}: "transfer(address,uint256)",
	{0x23, 0xb8, 0x72, 0xdd}: "transferFrom(address,address,uint256)",
	{0x09, 0x5e, 0xa7, 0xb3}: "approve(address,uint256)",
	{0x39, 0x50, 0x93, 0x51}: "increaseAllowance(address,uint256)",
	{0xa4, 0x57, 0xc2, 0xd7}: "decreaseAllowance(address,uint256)",
	{0xd5, 0x05, 0xac, 0xcf}: "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)",
	{0xd0, 0xe3, 0x0d, 0xb0}: "deposit()",
	{0x2e, 0x1a, 0x7d, 0x4d}: "withdraw(uint256)",
	{0x42, 0x84, 0x2e, 0x0e}: "safeTransferFrom(address,address,uint256)",
	{0xb8, 0x8d, 0x4f, 0xde}: "safeTransferFrom(address,address,uint256,bytes)",
	{0xa2, 0x2c, 0xb4, 0x65}: "setApprovalForAll(address,bool)",
	{0xf2, 0x42, 0x43, 0x2a}: "safeTransferFrom(address,address,uint256,uint256,bytes)",
	{0x2e, 0xb2, 0xc2, 0xd6}: "safeBatchTransferFrom(address,address,uint256[],uint256[],bytes)",
	{0x12, 0x49, 0xc5, 0x8b}: "mint()",
	{0x6a, 0x62, 0x78, 0x42}: "mint(address)",
	{0xa0, 0x71, 0x2d, 0x68}: "mint(uint256)",
	{0x40, 0xc1, 0x0f, 0x19}: "mint(address,uint256)",
	{0x73, 0x11, 0x33, 0xe9}: "mint(address,uint256,uint256,bytes)",
	{0x40, 0xd0, 0x97, 0xc3}: "safeMint(address)",
	{0xa1, 0x44, 0x81, 0x94}: "safeMint(address,uint256)",
	{0x42, 0x96, 0x6c, 0x68}: "burn(uint256)",
	{0x9d, 0xc2, 0x9f, 0xac}: "burn(address,uint256)",
	{0x79, 0xcc, 0x67, 0x90}: "burnFrom(address,uint256)",
	{0x4e, 0x71, 0xd9, 0x2d}: "claim()",
	{0x1e, 0x83, 0x40, 0x9a}: "claim(address)",
	{0x37, 0x96, 0x07, 0xf5}: "claim(uint256)",
	{0xa6, 0x94, 0xfc, 0x3a}: "stake(uint256)",
	{0x2e, 0x17, 0xde, 0x78}: "unstake(uint256)",
	{0xac, 0x96, 0x50, 0xd8}: "multicall(bytes[])",
	{0x5a, 0xe4, 0x01, 0xdc}: "multicall(uint256,bytes[])",
	{0x1f, 0x04, 0x64, 0xd1}: "multicall(bytes32,bytes[])",
	// ERC-677, ERC-777, ERC-1363, ERC-3009, ERC-4626, ERC-7597, and DAI's permit.
	{0x9f, 0xd5, 0xa6, 0xcf}: "permit(address,address,uint256,uint256,bytes)",
	{0x8f, 0xcb, 0xaf, 0x0c}: "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)",
	{0x12, 0x96, 0xee, 0x62}: "transferAndCall(address,uint256)",
	{0x40, 0x00, 0xae, 0xa0}: "transferAndCall(address,uint256,bytes)",
	{0xd8, 0xfb, 0xe9, 0x94}: "transferFromAndCall(address,address,uint256)",
	{0xc1, 0xd3, 0x4b, 0x89}: "transferFromAndCall(address,address,uint256,bytes)",
	{0x31, 0x77, 0x02, 0x9f}: "approveAndCall(address,uint256)",
	{0xca, 0xe9, 0xca, 0x51}: "approveAndCall(address,uint256,bytes)",
	{0x9b, 0xd9, 0xbb, 0xc6}: "send(address,uint256,bytes)",
	{0x95, 0x9b, 0x8c, 0x3f}: "authorizeOperator(address)",
	{0xfe, 0x9d, 0x93, 0x03}: "burn(uint256,bytes)",
	{0xf5, 0x29, 0x8a, 0xca}: "burn(address,uint256,uint256)",
	{0xe3, 0xee, 0x16, 0x0e}: "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)",
	{0xba, 0x08, 0x76, 0x52}: "redeem(uint256,address,address)",
	{0xb4, 0x60, 0xaf, 0x94}: "withdraw(uint256,address,address)",
	// Permit2 (Uniswap, IAllowanceTransfer and ISignatureTransfer).
	{0x87, 0x51, 0x7c, 0x45}: "approve(address,address,uint160,uint48)",
	{0x2b, 0x67, 0xb5, 0x70}: "permit(address,((address,uint160,uint48,uint48),address,uint256),bytes)",
	{0x2a, 0x2d, 0x80, 0xd1}: "permit(address,((address,uint160,uint48,uint48)[],address,uint256),bytes)",
	{0x36, 0xc7, 0x85, 0x16}: "transferFrom(address,address,uint160,address)",
	{0x0d, 0x58, 0xb1, 0xdb}: "transferFrom((address,address,uint160,address)[])",
	{0x30, 0xf2, 0x8b, 0x7a}: "permitTransferFrom(((address,uint256),uint256,uint256),(address,uint256),address,bytes)",
	{0xed, 0xd9, 0x44, 0x4b}: "permitTransferFrom(((address,uint256)[],uint256,uint256),(address,uint256)[],address,bytes)",
	{0x13, 0x7c, 0x29, 0xfe}: "permitWitnessTransferFrom(((address,uint256),uint256,uint256),(address,uint256),address,bytes32,string,bytes)",
	{0xfe, 0x8e, 0xc1, 0xa7}: "permitWitnessTransferFrom(((address,uint256)[],uint256,uint256),(address,uint256)[],address,bytes32,string,bytes)",
}

// Name is the signature of a well-known function, such as "transfer(address,uint256)", or "function 0x…". Another
// function may have the same selector.
func (s Selector) Name() string { return s.functionName() }

// functionName names what s selects: the signature if it is a well-known one.
// A selector is no proof: other functions may share it.
func (s Selector) functionName() string {
	if signature, ok := functionSignatures[s]; ok {
		return signature
	}
	return "function " + s.String()
}

// headWord is one word of the arguments' head (Solidity ABI specification, "Formal
// Specification of the Encoding").
type headWord struct {
	kind     string // its Solidity type
	argument int    // whose argument it is all of, from 0; -1: it is a part of a tuple
}

// isOffset reports whether the word says where a value is, and not what it is.
func (w headWord) isOffset() bool { return isDynamic(w.kind) }

// head returns the words of the arguments' head; false if the function is not known.
func (s Selector) head() ([]headWord, bool) {
	signature, ok := functionSignatures[s]
	if !ok {
		return nil, false
	}
	var words []headWord
	for i, kind := range componentTypes(signature[strings.IndexByte(signature, '('):]) {
		if kind[0] != '(' || isDynamic(kind) {
			words = append(words, headWord{kind, i})
			continue
		}
		for _, part := range staticParts(kind) {
			words = append(words, headWord{part, -1})
		}
	}
	return words, true
}

// staticParts are the words of a static tuple, which stands in the head as if
// its parts were arguments.
func staticParts(tuple string) (parts []string) {
	for _, kind := range componentTypes(tuple) {
		if kind[0] == '(' {
			parts = append(parts, staticParts(kind)...)
		} else {
			parts = append(parts, kind)
		}
	}
	return parts
}

// componentTypes cuts "(a,(b,c),d[])" into its components.
func componentTypes(tuple string) (types []string) {
	list := tuple[1 : len(tuple)-1]
	depth, start := 0, 0
	for i, c := range []byte(list) {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			types = append(types, list[start:i])
			start = i + 1
		}
	}
	if list == "" {
		return nil
	}
	return append(types, list[start:])
}

// isDynamic reports whether the head has an offset in a value's place. No signature in the
// table has an array of fixed size.
func isDynamic(kind string) bool {
	switch {
	case kind == "bytes", kind == "string", strings.HasSuffix(kind, "[]"):
		return true
	case kind[0] == '(':
		return slices.ContainsFunc(componentTypes(kind), isDynamic)
	}
	return false
}

// argumentType returns the type of the argument that is the word at index, and false if
// the function is not known or the word is not the value of the argument with that number.
func (s Selector) argumentType(index uint64) (string, bool) {
	words, _ := s.head()
	if index >= uint64(len(words)) || words[index].isOffset() || words[index].argument != int(index) {
		return "", false
	}
	return words[index].kind, true
}
