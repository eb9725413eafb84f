package policy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/holiman/uint256"
)

// maxCaseBytes bounds one line of a file of cases.
const maxCaseBytes = 16 << 20

// defaultGasPerPubdata is what the SDK sends.
const defaultGasPerPubdata = 50_000

// Case is a session and the transactions to rehearse with it, in the format of
// testdata/session-vectors.jsonl.gz.
type Case struct {
	Name    string
	ChainID uint64
	Account Address
	Session Spec
	// Created is whether createSession was sent, and not refused, before the first step.
	Created bool
	Steps   []Step
}

// Step is one transaction of a [Case].
type Step struct {
	Now       uint64 // block time, Unix seconds
	Revoke    bool   // the account revokes the session just before this step
	Tx        StepTx
	PeriodIDs []uint64 // nil: those that the SDK sends at Now; empty: none
}

// StepTx is the transaction of a [Step], of type 0x71.
type StepTx struct {
	From                 Address
	To                   Address
	Value                uint256.Int // wei
	Data                 []byte
	GasLimit             uint256.Int
	MaxFeePerGas         uint256.Int // wei
	MaxPriorityFeePerGas uint256.Int // wei
	GasPerPubdata        uint256.Int
	Nonce                uint64
	Paymaster            Address // zero: the account pays
	PaymasterInput       []byte
}

// CaseError is a line that holds no case.
type CaseError struct {
	Line int    // from 1
	Name string // the case's, if that much could be read
	Err  error
}

func (e *CaseError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("line %d: %v", e.Line, e.Err)
	}
	return fmt.Sprintf("line %d: case %s: %v", e.Line, quoted(e.Name), e.Err)
}

func (e *CaseError) Unwrap() error { return e.Err }

// ReadCases reads cases, one JSON object a line, as they are asked for. A line that
// holds no case gives a *[CaseError], and reading goes on behind it; an error of r, or a
// line of more than 16 MiB, ends it. Empty lines are skipped.
func ReadCases(r io.Reader) iter.Seq2[*Case, error] {
	return readLines(r, func(line []byte) (*Case, string, error) {
		c, err := ParseCase(line)
		return c, c.Name, err
	})
}

// readLines parses each line of r that is not empty into a case, which also has a name.
func readLines[C any](r io.Reader, parse func([]byte) (*C, string, error)) iter.Seq2[*C, error] {
	return func(yield func(*C, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 0, 64<<10), maxCaseBytes)
		n := 0
		for lines.Scan() {
			n++
			line := bytes.TrimSpace(lines.Bytes())
			if len(line) == 0 {
				continue
			}
			c, name, err := parse(line)
			if err != nil {
				c, err = nil, &CaseError{n, name, err}
			}
			if !yield(c, err) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			if errors.Is(err, bufio.ErrTooLong) {
				err = fmt.Errorf("longer than %d bytes", maxCaseBytes)
			}
			yield(nil, &CaseError{n + 1, "", err})
		}
	}
}

// ParseCase reads one case, strictly. What the chain decided, where the line says so, is
// not looked at. Enum numbers out of range are taken as far as they fit into the contract's
// uint8, since [Case.Run] knows what the chain makes of them. The error is a *[JSONError]; the
// case beside it is never nil and has the name, if that could be read.
func ParseCase(data []byte) (*Case, error) {
	v, err := parseJSON(data, maxCaseBytes, maxMembers)
	if err != nil {
		return &Case{}, err
	}
	d := decoder{anyEnum: true}
	c := d.testCase(v)
	if d.err != nil {
		return &c, d.err
	}
	return &c, nil
}

func (d *decoder) testCase(v *jsonNode) (c Case) {
	o := d.object(v, "", "name", "chainId", "account", "session", "steps", "created",
		"createError", "sessionHash", "hookData") // the last two say what to expect
	c.Name = o.string("name")
	c.ChainID = o.uint64("chainId")
	o.text("account", &c.Account)
	if session := o.member("session"); session != nil {
		c.Session = d.spec(session, "session", true)
	}
	refused := o.has("createError") && o.string("createError") != ""
	c.Created = o.boolOr("created", true) && !refused
	o.array("steps", func(item *jsonNode, path string) {
		c.Steps = append(c.Steps, d.step(item, path, c.Account))
	})
	return c
}

func (d *decoder) step(v *jsonNode, path string, account Address) (s Step) {
	o := d.object(v, path, "now", "revoke", "tx", "periodIds",
		"allow", "reason", "digest", "ids", "sdk") // these say what to expect
	s.Now = o.uint64("now")
	s.Revoke = o.boolOr("revoke", false)
	if tx := o.member("tx"); tx != nil {
		s.Tx = d.stepTx(tx, o.at("tx"), account)
	}
	if o.has("periodIds") {
		s.PeriodIDs = []uint64{}
		o.array("periodIds", func(item *jsonNode, path string) {
			s.PeriodIDs = append(s.PeriodIDs, d.uint64(item, path))
		})
	}
	return s
}

// stepTx reads a transaction. to, gasLimit and maxFeePerGas are required; from is the
// account if it is missing, gasPerPubdata the SDK's default, the rest zero or empty.
func (d *decoder) stepTx(v *jsonNode, path string, account Address) StepTx {
	o := d.object(v, path, "from", "to", "value", "data", "gasLimit", "maxFeePerGas",
		"maxPriorityFeePerGas", "gasPerPubdata", "nonce", "paymaster", "paymasterInput")
	tx := StepTx{
		From:                 account,
		Value:                o.uintOr("value", 0),
		Data:                 o.bytes("data"),
		GasLimit:             o.uint("gasLimit"),
		MaxFeePerGas:         o.uint("maxFeePerGas"),
		MaxPriorityFeePerGas: o.uintOr("maxPriorityFeePerGas", 0),
		GasPerPubdata:        o.uintOr("gasPerPubdata", defaultGasPerPubdata),
		PaymasterInput:       o.bytes("paymasterInput"),
	}
	o.text("to", &tx.To)
	if o.has("from") {
		o.text("from", &tx.From)
	}
	if o.has("nonce") {
		tx.Nonce = o.uint64("nonce")
	}
	if o.has("paymaster") {
		o.text("paymaster", &tx.Paymaster)
	}
	return tx
}
