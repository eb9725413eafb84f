package rules

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"regexp"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// function is a Solidity function whose arguments rules can read by name.
type function struct {
	selector policy.Selector
	inputs   abi.Arguments
	vars     map[string]*types.Type // "args.to": of the arguments that have a name
}

// parameterName is the name at the end of a parameter, behind its type and data location.
var parameterName = regexp.MustCompile(`[\w)\]]\s+(?:(?:memory|calldata|storage|payable)\s+)*([A-Za-z_$][\w$]*)$`)

// parseFunction reads a signature with parameter names. Each named parameter has a type that rules can read.
func parseFunction(text string) (*function, error) {
	canonical, err := policy.ParseSignature(text)
	if err != nil {
		return nil, err
	}
	parsed, err := abi.ParseSelector(canonical)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", canonical, err)
	}
	f := &function{selector: policy.SelectorOf(canonical), vars: map[string]*types.Type{}}
	names := parameterNames(text)
	if len(names) != len(parsed.Inputs) {
		return nil, fmt.Errorf("%q: found %d parameters and %d types", text, len(names), len(parsed.Inputs))
	}
	for i, in := range parsed.Inputs {
		typ, err := abi.NewType(in.Type, in.InternalType, in.Components)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.Type, err)
		}
		f.inputs = append(f.inputs, abi.Argument{Name: names[i], Type: typ})
		if names[i] == "" {
			continue
		}
		readable, err := celType(&typ)
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", names[i], err)
		}
		if f.vars["args."+names[i]] != nil {
			return nil, fmt.Errorf("two parameters have the name %s", names[i])
		}
		f.vars["args."+names[i]] = readable
	}
	return f, nil
}

// parameterNames returns the name of each parameter in a valid signature; "" where it has none.
func parameterNames(text string) (names []string) {
	open := strings.IndexByte(text, '(')
	depth, start := 0, open+1
	for i := open; i < len(text); i++ {
		switch text[i] {
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth == 0 || depth == 1 && text[i] == ',' {
			piece := strings.TrimSpace(text[start:i])
			start = i + 1
			if piece == "" && depth == 0 {
				return names
			}
			name := ""
			if m := parameterName.FindStringSubmatch(piece); m != nil && m[1] != "memory" && m[1] != "calldata" &&
				m[1] != "storage" && m[1] != "payable" {
				name = m[1]
			}
			names = append(names, name)
		}
		if depth == 0 {
			return names
		}
	}
	return names
}

// celType is the type by which rules read a Solidity value.
func celType(t *abi.Type) (*types.Type, error) {
	switch t.T {
	case abi.UintTy:
		return weiType, nil
	case abi.AddressTy:
		return addressType, nil
	case abi.BoolTy:
		return types.BoolType, nil
	case abi.StringTy:
		return types.StringType, nil
	case abi.BytesTy, abi.FixedBytesTy:
		return types.BytesType, nil
	case abi.SliceTy, abi.ArrayTy:
		elem, err := celType(t.Elem)
		if err != nil {
			return nil, err
		}
		return types.NewListType(elem), nil
	}
	return nil, fmt.Errorf("rules can't read the type %s: leave out its name", t)
}

// calls reports whether in's transaction calls the function.
func (f *function) calls(in *Input) bool {
	return len(in.Tx.Data) >= 4 && selectorOf(in.Tx) == f.selector
}

var errNotCanonical = errors.New("the calldata is not the canonical ABI encoding of the function's arguments")

// decode returns the named arguments of the transaction's calldata. Calldata that the encoder would not have written is
// an error: a contract could read it in another way.
func (f *function) decode(data []byte) (map[string]any, error) {
	values, err := f.values(data)
	if err != nil {
		return nil, err
	}
	args := make(map[string]any, len(f.vars))
	for i, value := range values {
		if name := f.inputs[i].Name; name != "" {
			if args["args."+name], err = celValue(reflect.ValueOf(value)); err != nil {
				return nil, err
			}
		}
	}
	return args, nil
}

// values are all arguments of calldata.
func (f *function) values(data []byte) ([]any, error) {
	values, err := f.inputs.Unpack(data[4:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotCanonical, err)
	}
	again, err := f.inputs.Pack(values...)
	if err != nil || !bytes.Equal(again, data[4:]) {
		return nil, errNotCanonical
	}
	return values, nil
}

// celValue is a decoded Solidity value as rules read it.
func celValue(v reflect.Value) (ref.Val, error) {
	switch x := v.Interface().(type) {
	case *big.Int:
		var w uint256.Int
		if x.Sign() < 0 || w.SetFromBig(x) {
			return nil, fmt.Errorf("%s is outside of 0 … 2^256-1", x)
		}
		return wei(w), nil
	case uint8, uint16, uint32, uint64:
		return wei(*uint256.NewInt(v.Uint())), nil
	case common.Address:
		return address(x), nil
	case bool:
		return types.Bool(x), nil
	case string:
		return types.String(x), nil
	case []byte:
		return types.Bytes(x), nil
	}
	if v.Kind() == reflect.Array && v.Type().Elem().Kind() == reflect.Uint8 { // bytesN
		b := make([]byte, v.Len())
		reflect.Copy(reflect.ValueOf(b), v)
		return types.Bytes(b), nil
	}
	if v.Kind() != reflect.Slice && v.Kind() != reflect.Array {
		return nil, fmt.Errorf("a value of type %s can't be read", v.Type())
	}
	list := make([]ref.Val, v.Len())
	for i := range list {
		item, err := celValue(v.Index(i))
		if err != nil {
			return nil, err
		}
		list[i] = item
	}
	return types.NewRefValList(types.DefaultTypeAdapter, list), nil
}
