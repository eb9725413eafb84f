package policy

import "strings"

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
}

// functionName names what s selects: the signature if it is a well-known one.
// A selector is no proof: other functions may share it.
func (s Selector) functionName() string {
	if signature, ok := functionSignatures[s]; ok {
		return signature
	}
	return "function " + s.String()
}

// argumentType returns the type of the argument that is the word at index, and false if
// the function is not known or the word is not an argument's value.
func (s Selector) argumentType(index uint64) (string, bool) {
	_, list, ok := strings.Cut(strings.TrimSuffix(functionSignatures[s], ")"), "(")
	if !ok || list == "" {
		return "", false
	}
	types := strings.Split(list, ",")
	// Each argument before this one fills one word: none in the table is a tuple or a
	// fixed-size array. A dynamic one's word is an offset.
	if index >= uint64(len(types)) || types[index] == "bytes" || strings.HasSuffix(types[index], "]") {
		return "", false
	}
	return types[index], true
}
