package command

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// simulated is one step of policy simulate --json: exactly these keys.
type simulated struct {
	Case        string      `json:"case"`
	Step        int         `json:"step"` // from 0
	Allow       bool        `json:"allow"`
	Reason      string      `json:"reason"` // what the chain reverts with; "" if it allows
	SessionHash policy.Hash `json:"sessionHash"`
	Digest      policy.Hash `json:"digest"`
}

func (t *tool) policySimulate(c *cli.Context) error {
	if err := required(c, "cases"); err != nil {
		return err
	}
	in, err := t.openCases(c.String("cases"))
	if err != nil {
		return err
	}
	defer in.Close()
	out := bufio.NewWriter(t.stdout)
	print, finish := stepTable(out)
	if c.Bool("json") {
		print, finish = stepLines(out)
	}
	err = eachCase(t, c.String("cases"), policy.ReadCases(in), func(cs *policy.Case) error {
		for i, result := range cs.Run(config.SessionKeyValidator) {
			s := &simulated{result.Case, result.Step, result.Allow, result.Reason, result.SessionHash, stepDigest(cs, i)}
			if err := print(s, &result); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, finish(), out.Flush())
}

// eachCase judges the cases of the file name. A line that holds none does not end it: the error of
// the last such line is returned, those of the lines before it are printed.
func eachCase[C any](t *tool, name string, cases iter.Seq2[*C, error], judge func(*C) error) error {
	var bad error
	for cs, err := range cases {
		if err == nil {
			if err := judge(cs); err != nil {
				return err
			}
			continue
		}
		if bad != nil {
			code, hint := verdictOn(bad)
			t.fault(bad, code, hint)
		}
		bad = inFile(name, err)
	}
	return bad
}

// stepDigest is the digest that a signature over the step's transaction is made of.
func stepDigest(cs *policy.Case, step int) policy.Hash {
	s := &cs.Steps[step].Tx
	return (&zktx.Transaction{
		Type:                 zktx.TypeZKsync,
		ChainID:              cs.ChainID,
		Nonce:                s.Nonce,
		From:                 s.From,
		To:                   s.To,
		Value:                s.Value,
		Data:                 s.Data,
		GasLimit:             s.GasLimit,
		MaxFeePerGas:         s.MaxFeePerGas,
		MaxPriorityFeePerGas: s.MaxPriorityFeePerGas,
		GasPerPubdata:        s.GasPerPubdata,
		Paymaster:            s.Paymaster,
		PaymasterInput:       s.PaymasterInput,
	}).Digest()
}

// stepLines prints one JSON object a step.
func stepLines(w io.Writer) (print func(*simulated, *policy.StepResult) error, finish func() error) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return func(s *simulated, _ *policy.StepResult) error { return enc.Encode(s) }, func() error { return nil }
}

// stepTable prints the verdicts for a person.
func stepTable(w io.Writer) (print func(*simulated, *policy.StepResult) error, finish func() error) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "CASE\tSTEP\tVERDICT\tWHY")
	return func(s *simulated, r *policy.StepResult) error {
		verdict := "allowed"
		if r.Denial != nil {
			verdict = "denied\t" + r.Denial.Error()
		}
		_, err := fmt.Fprintf(tw, "%s\t%d\t%s\n", s.Case, s.Step, verdict)
		return err
	}, tw.Flush
}

// openCases opens a file of cases, or stdin for "-", and unpacks it if it is gzipped.
func (t *tool) openCases(name string) (io.ReadCloser, error) {
	in := io.NopCloser(t.stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		in = f
	}
	buffered := bufio.NewReader(in)
	var r io.Reader = buffered
	if magic, err := buffered.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b { // RFC 1952, 2.3.1
		unpacked, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r = unpacked
	}
	return struct {
		io.Reader
		io.Closer
	}{r, in}, nil
}
