package rules

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/abi"

	"github.com/keyward/keyward/policy"
)

// Printable is text that someone else wrote as a terminal can show it: what moves the cursor or can't be seen is
// escaped.
func Printable(text string) string {
	quoted := strconv.QuoteToGraphic(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// CallText is what calldata calls, for a person: "transfer(address 0x…, uint256 5)". If the function is not a
// well-known one, or the calldata is not the canonical encoding of its arguments, it says so. "" is no call.
func CallText(data []byte) string {
	if len(data) < 4 {
		return ""
	}
	name := policy.Selector(data[:4]).Name()
	unread := fmt.Sprintf("%s with %d bytes of arguments that can't be read", name, len(data)-4)
	if !strings.Contains(name, "(") {
		return unread
	}
	parsed, err := abi.ParseSelector(name)
	if err != nil {
		return unread
	}
	f := &function{}
	for _, in := range parsed.Inputs {
		typ, err := abi.NewType(in.Type, in.InternalType, in.Components)
		if err != nil {
			return unread
		}
		f.inputs = append(f.inputs, abi.Argument{Type: typ})
	}
	values, err := f.values(data)
	if err != nil {
		return unread
	}
	args := make([]string, len(values))
	for i, v := range values {
		text := fmt.Sprint(v)
		if b := reflect.ValueOf(v); (b.Kind() == reflect.Slice || b.Kind() == reflect.Array) &&
			b.Type().Elem().Kind() == reflect.Uint8 {
			text = fmt.Sprintf("0x%x", v)
		}
		args[i] = f.inputs[i].Type.String() + " " + Printable(policy.Cut(text, 200))
	}
	return name[:strings.IndexByte(name, '(')] + "(" + strings.Join(args, ", ") + ")"
}
