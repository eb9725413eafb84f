package policy

import "fmt"

// ProductionChain is the chain whose sessions Abstract's production rules hold for: its
// mainnet. The SDK looks at no other.
const ProductionChain = 2741

// RegistryKind says which list of the policy registry is asked.
type RegistryKind uint8

const (
	CallPolicy     RegistryKind = iota // getCallPolicyStatus(target, selector)
	TransferPolicy                     // getTransferPolicyStatus(target)
	ApprovalTarget                     // getApprovalTargetStatus(token, spender)
)

// RegistryQuery is one question to the SessionKeyPolicyRegistry. It is comparable; the
// fields that its kind does not use are zero.
type RegistryQuery struct {
	Kind     RegistryKind
	Target   Address  // of an approval, the token
	Selector Selector // of a call policy
	Spender  Address  // of an approval: who may spend, or receive
}

// RegistryStatus is the registry's answer (SessionKeyPolicyRegistry.Status).
type RegistryStatus uint8

const (
	Unset RegistryStatus = iota
	Allowed
	Blocked // "Denied" in the SDK's words
)

// String returns the SDK's word, even for a number that it has none for.
func (s RegistryStatus) String() string {
	switch s {
	case Unset:
		return "Unset"
	case Allowed:
		return "Allowed"
	case Blocked:
		return "Denied"
	}
	return "undefined"
}

// String names the getter and its arguments.
func (q RegistryQuery) String() string {
	switch q.Kind {
	case CallPolicy:
		return fmt.Sprintf("getCallPolicyStatus(%v, %v)", q.Target, q.Selector)
	case TransferPolicy:
		return fmt.Sprintf("getTransferPolicyStatus(%v)", q.Target)
	default:
		return fmt.Sprintf("getApprovalTargetStatus(%v, %v)", q.Target, q.Spender)
	}
}
