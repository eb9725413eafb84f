package rules

import (
	"fmt"
	"math/big"
	"reflect"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// The chain's values are types of their own in expressions, so that a comparison that can't be right is an error when
// the rules are loaded: CEL has no integer of 256 bits, and text has many forms for one address.
var (
	weiType = types.NewObjectType("wei", traits.ComparerType, traits.AdderType, traits.SubtractorType,
		traits.MultiplierType)
	addressType  = types.NewObjectType("address")
	selectorType = types.NewObjectType("selector")
)

// wei is an unsigned integer of 256 bits: an amount in an asset's smallest unit, or any other number of the chain's.
type wei uint256.Int

func (w wei) int() *uint256.Int { return (*uint256.Int)(&w) }

// Compare implements traits.Comparer.
func (w wei) Compare(other ref.Val) ref.Val {
	o, ok := other.(wei)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	return types.Int(w.int().Cmp(o.int()))
}

// Equal implements ref.Val.
func (w wei) Equal(other ref.Val) ref.Val {
	o, ok := other.(wei)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	return types.Bool(w == o)
}

// Add implements traits.Adder.
func (w wei) Add(other ref.Val) ref.Val {
	return w.arithmetic(other, "+", (*uint256.Int).AddOverflow)
}

// Subtract implements traits.Subtractor.
func (w wei) Subtract(other ref.Val) ref.Val {
	return w.arithmetic(other, "-", (*uint256.Int).SubOverflow)
}

// Multiply implements traits.Multiplier.
func (w wei) Multiply(other ref.Val) ref.Val {
	return w.arithmetic(other, "*", (*uint256.Int).MulOverflow)
}

func (w wei) arithmetic(other ref.Val, sign string, do func(z, x, y *uint256.Int) (*uint256.Int, bool)) ref.Val {
	o, ok := other.(wei)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	z, overflow := do(new(uint256.Int), w.int(), o.int())
	if overflow {
		return types.NewErr("%s %s %s is outside of 0 … 2^256-1", w.int().Dec(), sign, o.int().Dec())
	}
	return wei(*z)
}

// ConvertToNative implements ref.Val.
func (w wei) ConvertToNative(t reflect.Type) (any, error) { return native(w, t) }

// ConvertToType implements ref.Val.
func (w wei) ConvertToType(t ref.Type) ref.Val { return convert(w, t, w.int().Dec()) }

// Type implements ref.Val.
func (w wei) Type() ref.Type { return weiType }

// Value implements ref.Val.
func (w wei) Value() any { return *w.int() }

// address is an account or contract.
type address policy.Address

// Equal implements ref.Val.
func (a address) Equal(other ref.Val) ref.Val {
	o, ok := other.(address)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	return types.Bool(a == o)
}

// ConvertToNative implements ref.Val.
func (a address) ConvertToNative(t reflect.Type) (any, error) { return native(a, t) }

// ConvertToType implements ref.Val. As text an address is in lower case.
func (a address) ConvertToType(t ref.Type) ref.Val {
	return convert(a, t, strings.ToLower(policy.Address(a).String()))
}

// Type implements ref.Val.
func (a address) Type() ref.Type { return addressType }

// Value implements ref.Val.
func (a address) Value() any { return policy.Address(a) }

// selector names a function of a contract.
type selector policy.Selector

// Equal implements ref.Val.
func (s selector) Equal(other ref.Val) ref.Val {
	o, ok := other.(selector)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	return types.Bool(s == o)
}

// ConvertToNative implements ref.Val.
func (s selector) ConvertToNative(t reflect.Type) (any, error) { return native(s, t) }

// ConvertToType implements ref.Val.
func (s selector) ConvertToType(t ref.Type) ref.Val {
	return convert(s, t, policy.Selector(s).String())
}

// Type implements ref.Val.
func (s selector) Type() ref.Type { return selectorType }

// Value implements ref.Val.
func (s selector) Value() any { return policy.Selector(s) }

func native(v ref.Val, t reflect.Type) (any, error) {
	if reflect.TypeOf(v).AssignableTo(t) {
		return v, nil
	}
	return nil, fmt.Errorf("%s can't become a %s", v.Type().TypeName(), t)
}

func convert(v ref.Val, t ref.Type, text string) ref.Val {
	switch t {
	case types.StringType:
		return types.String(text)
	case types.TypeType:
		return v.Type().(ref.Val)
	case v.Type():
		return v
	}
	return types.NewErr("%s can't become a %s", v.Type().TypeName(), t.TypeName())
}

// parseAmount reads a decimal fraction of a unit of 10^decimals, exactly: "0.1" of 18 decimals is 10^17.
func parseAmount(text string, decimals int) (x uint256.Int, err error) {
	whole, fraction, point := strings.Cut(text, ".")
	if whole == "" || point && fraction == "" || strings.Trim(whole+fraction, "0123456789") != "" {
		return x, fmt.Errorf("%q is not a decimal number", text)
	}
	if len(fraction) > decimals {
		return x, fmt.Errorf("%q has more than %d digits behind the point", text, decimals)
	}
	n, _ := new(big.Int).SetString(whole+fraction+strings.Repeat("0", decimals-len(fraction)), 10)
	if x.SetFromBig(n) {
		return x, fmt.Errorf("%q is beyond 2^256-1", text)
	}
	return x, nil
}

// units are the amounts that a [Rule]'s limit and the functions of that name take.
var units = map[string]int{"wei": 0, "gwei": 9, "ether": 18}

// parseLimit reads "10", "10 wei", "30 gwei" or "0.1 ether".
func parseLimit(text string) (uint256.Int, error) {
	number, unit, named := strings.Cut(text, " ")
	if !named {
		unit = "wei"
	}
	decimals, ok := units[unit]
	if !ok {
		return uint256.Int{}, fmt.Errorf("%q: the unit is %q, want wei, gwei or ether", text, unit)
	}
	return parseAmount(number, decimals)
}
