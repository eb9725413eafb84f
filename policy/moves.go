package policy

import "fmt"

// noWord says that no word of the arguments' head tells.
const noWord = -1

// tokenMove is what a token function can take from an account, and which words of its
// arguments say so.
type tokenMove struct {
	// recipient is the word of who receives or may spend; noWord: none that a constraint
	// can hold.
	recipient int
	// amount is the word of how much; noWord: none that a constraint can hold.
	amount int
	// enabled is the word of a bool without which nothing is given; noWord: there is none.
	enabled int
	// token is the word of the token, of Permit2; noWord: it is the policy's target.
	token int

	approval bool // the recipient can take it later, after the session's end too
	ids      bool // amount is the id of one NFT (ERC-721)
	maybeIDs bool // ERC-721 has a function with this selector whose amount is an id
	burns    bool // nobody receives it
	permit2  bool
	any      bool // it calls any function of its own contract
}

// The words of the usual functions, and whether a constraint on the amount says much.
func moves(recipient, amount int) tokenMove {
	return tokenMove{recipient: recipient, amount: amount, enabled: noWord, token: noWord}
}

func approves(spender, amount int) tokenMove {
	m := moves(spender, amount)
	m.approval = true
	return m
}

func enables(spender, enabled int) tokenMove {
	m := approves(spender, noWord)
	m.enabled = enabled
	return m
}

func burns(amount int) tokenMove {
	m := moves(noWord, amount)
	m.burns = true
	return m
}

// orID is m where the amount may be an NFT's id, as the token's kind decides.
func (m tokenMove) orID() tokenMove {
	m.maybeIDs = true
	return m
}

func movesID(recipient, id int) tokenMove {
	m := moves(recipient, id)
	m.ids = true
	return m
}

func (m tokenMove) ofToken(token int) tokenMove {
	m.token, m.permit2 = token, true
	return m
}

// tokenMoves are the functions that can take tokens, by the selectors of functionSignatures.
var tokenMoves = map[Selector]tokenMove{
	{0xa9, 0x05, 0x9c, 0xbb}: moves(0, 1),           // transfer
	{0x23, 0xb8, 0x72, 0xdd}: moves(1, 2).orID(),    // transferFrom
	{0x09, 0x5e, 0xa7, 0xb3}: approves(0, 1).orID(), // approve
	{0x39, 0x50, 0x93, 0x51}: approves(0, 1),        // increaseAllowance
	{0xd5, 0x05, 0xac, 0xcf}: approves(1, 2),        // permit, EIP-2612
	{0x9f, 0xd5, 0xa6, 0xcf}: approves(1, 2),        // permit, ERC-7597
	{0x8f, 0xcb, 0xaf, 0x0c}: enables(1, 4),         // permit, DAI
	{0xa2, 0x2c, 0xb4, 0x65}: enables(0, 1),         // setApprovalForAll
	{0x95, 0x9b, 0x8c, 0x3f}: approves(0, noWord),   // authorizeOperator, ERC-777
	{0x42, 0x84, 0x2e, 0x0e}: movesID(1, 2),         // safeTransferFrom, ERC-721
	{0xb8, 0x8d, 0x4f, 0xde}: movesID(1, 2),         // the same with data
	{0xf2, 0x42, 0x43, 0x2a}: moves(1, 3),           // safeTransferFrom, ERC-1155
	{0x2e, 0xb2, 0xc2, 0xd6}: moves(1, noWord),      // safeBatchTransferFrom
	{0x12, 0x96, 0xee, 0x62}: moves(0, 1),           // transferAndCall
	{0x40, 0x00, 0xae, 0xa0}: moves(0, 1),
	{0xd8, 0xfb, 0xe9, 0x94}: moves(1, 2), // transferFromAndCall
	{0xc1, 0xd3, 0x4b, 0x89}: moves(1, 2),
	{0x31, 0x77, 0x02, 0x9f}: approves(0, 1), // approveAndCall
	{0xca, 0xe9, 0xca, 0x51}: approves(0, 1),
	{0x9b, 0xd9, 0xbb, 0xc6}: moves(0, 1),      // send, ERC-777
	{0xe3, 0xee, 0x16, 0x0e}: moves(1, 2),      // transferWithAuthorization
	{0xba, 0x08, 0x76, 0x52}: moves(1, 0),      // redeem: the amount is of the vault's own token
	{0xb4, 0x60, 0xaf, 0x94}: moves(1, noWord), // withdraw: the amount is of another token
	{0x42, 0x96, 0x6c, 0x68}: burns(0).orID(),  // burn
	{0xfe, 0x9d, 0x93, 0x03}: burns(0),
	{0x9d, 0xc2, 0x9f, 0xac}: burns(1), // burn(address,uint256)
	{0xf5, 0x29, 0x8a, 0xca}: burns(2), // burn, ERC-1155
	{0x79, 0xcc, 0x67, 0x90}: burns(1), // burnFrom

	{0x87, 0x51, 0x7c, 0x45}: approves(1, 2).ofToken(0),                // Permit2 approve
	{0x2b, 0x67, 0xb5, 0x70}: approves(5, 2).ofToken(1),                // permit
	{0x2a, 0x2d, 0x80, 0xd1}: approves(noWord, noWord).ofToken(noWord), // permit of several
	{0x36, 0xc7, 0x85, 0x16}: moves(1, 2).ofToken(3),                   // transferFrom
	{0x0d, 0x58, 0xb1, 0xdb}: moves(noWord, noWord).ofToken(noWord),    // transferFrom of several
	{0x30, 0xf2, 0x8b, 0x7a}: moves(4, 5).ofToken(0),                   // permitTransferFrom
	{0xed, 0xd9, 0x44, 0x4b}: moves(noWord, noWord).ofToken(noWord),
	{0x13, 0x7c, 0x29, 0xfe}: moves(4, 5).ofToken(0), // permitWitnessTransferFrom
	{0xfe, 0x8e, 0xc1, 0xa7}: moves(noWord, noWord).ofToken(noWord),

	{0xac, 0x96, 0x50, 0xd8}: {recipient: noWord, amount: noWord, enabled: noWord, token: noWord, any: true}, // multicall
	{0x5a, 0xe4, 0x01, 0xdc}: {recipient: noWord, amount: noWord, enabled: noWord, token: noWord, any: true},
	{0x1f, 0x04, 0x64, 0xd1}: {recipient: noWord, amount: noWord, enabled: noWord, token: noWord, any: true},
}

// role is the recipient's.
func (m *tokenMove) role() string {
	if m.approval {
		return "spender"
	}
	return "recipient"
}

// unfixed says why nothing holds m's recipient; "" if something does, or there is none.
func (r *reach) unfixed(m *tokenMove) string {
	name, role := r.Selector.functionName(), m.role()
	switch {
	case m.burns:
		return ""
	case m.any:
		return fmt.Sprintf("%s calls any function of the contract, and no constraint sees which", name)
	case m.recipient == noWord:
		return fmt.Sprintf("no constraint can fix the %s of %s: it is within an argument of dynamic length", role, name)
	}
	if _, fixed := r.address(m.recipient); fixed {
		return ""
	}
	return fmt.Sprintf("%s has no fixed %s: word %d of the arguments needs an Equal constraint", name, role, m.recipient)
}
