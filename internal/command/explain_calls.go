package command

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/abi"

	"github.com/keyward/keyward/policy"
)

// callNames decodes calls: with an ABI, or else by the well-known functions' names.
type callNames struct{ abi *abi.ABI }

func (n *callNames) read(t *tool, name string) error {
	data, err := t.readInput(name)
	if err != nil {
		return err
	}
	var artifact struct {
		ABI json.RawMessage `json:"abi"`
	}
	if json.Unmarshal(data, &artifact) == nil && artifact.ABI != nil { // as compilers write it
		data = artifact.ABI
	}
	parsed, err := abi.JSON(bytes.NewReader(data))
	if err != nil {
		return inFile(name, fmt.Errorf("not an ABI: %w", err))
	}
	n.abi = &parsed
	return nil
}

// asked says what a record's request was for.
func (n *callNames) asked(r *trailRecord) string {
	tx := r.Transaction
	text := "asked"
	if r.Method != "" {
		text += " with " + r.Method
	}
	if tx == nil || tx.To == "" {
		return text + sessionText(r)
	}
	value := strings.Trim(string(tx.Value), `"`)
	data := tx.Data
	if data == "" {
		data = tx.Input
	}
	switch {
	case len(data) >= 10:
		text += " for a signature to call " + n.call(data)
	case tx.Selector != "":
		text += " for a signature to call " + n.call(tx.Selector)
	default:
		text += " for a signature to send " + value + " wei to " + tx.To
		return text + sessionText(r)
	}
	text += " on " + tx.To
	if value != "" && value != "0" && value != "0x0" {
		text += " with " + value + " wei"
	}
	return text + sessionText(r)
}

func sessionText(r *trailRecord) string {
	if r.Session == "" {
		return ""
	}
	return " with session " + r.Session
}

// call names what calldata calls, with its arguments if the ABI has the function.
func (n *callNames) call(data string) string {
	raw, err := hex.DecodeString(strings.TrimPrefix(data, "0x"))
	if err != nil || len(raw) < 4 {
		return data
	}
	name := policy.Selector(raw[:4]).Name()
	if n.abi == nil {
		return name
	}
	method, err := n.abi.MethodById(raw[:4])
	if err != nil {
		return name
	}
	values, err := method.Inputs.Unpack(raw[4:])
	if err != nil || len(raw) == 4 && len(method.Inputs) > 0 { // a refusal's record has no calldata
		return method.Sig
	}
	var args []string
	for i, v := range values {
		args = append(args, strings.TrimSpace(fmt.Sprintf("%s %v", method.Inputs[i].Name, v)))
	}
	return method.RawName + "(" + strings.Join(args, ", ") + ")"
}
