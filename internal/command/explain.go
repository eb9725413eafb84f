package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
)

func (t *tool) explainCommand() *cli.Command {
	return &cli.Command{
		Name:  "explain",
		Usage: "say in a paragraph why a request was refused or granted, and what would make it pass",
		Description: "WHAT is the number of a record in the audit trail, or a file (- for stdin) with a transaction, " +
			"which the running agent\n" +
			"judges without counting anything, or with the error that an app got.",
		ArgsUsage: "WHAT",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "abi", TakesFile: true, Usage: "`FILE` with the contract's ABI as JSON, to decode calls with"},
			&cli.StringFlag{Name: "session", Usage: "session `ID` that the transaction is for, if it is not clear without"},
		},
		Action: t.explain,
	}
}

// explanation is what explain --json prints. Members that are not known are absent.
type explanation struct {
	Record   uint64   `json:"record,omitempty"`
	Who      string   `json:"who,omitempty"`
	Asked    string   `json:"asked,omitempty"`    // what for
	Verdict  string   `json:"verdict"`            // what became of it
	Reason   string   `json:"reason,omitempty"`   // the denial's stable word
	Compared string   `json:"compared,omitempty"` // which rule said no, and what it compared
	Pass     string   `json:"pass,omitempty"`     // what would make it pass
	Policy   []string `json:"policy,omitempty"`   // of the session, in plain words
}

func (t *tool) explain(c *cli.Context) error {
	args, err := operands(c, "WHAT (a record's number, or a file)")
	if err != nil {
		return err
	}
	calls := &callNames{}
	if c.IsSet("abi") {
		if err := calls.read(t, c.String("abi")); err != nil {
			return err
		}
	}
	var e *explanation
	if number, convErr := strconv.ParseUint(args[0], 10, 64); convErr == nil {
		e, err = t.explainRecord(c, number, calls)
	} else {
		e, err = t.explainFile(c, args[0], calls)
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(e)
	}
	t.print("%s", e)
	return nil
}

// String is the paragraph.
func (e *explanation) String() string {
	var parts []string
	if e.Who != "" || e.Asked != "" {
		parts = append(parts, strings.TrimSpace(e.Who+" "+e.Asked)+".")
	}
	for _, part := range []string{e.Verdict, e.Compared, e.Pass} {
		if part != "" {
			parts = append(parts, strings.TrimSuffix(part, ".")+".")
		}
	}
	text := strings.Join(parts, " ")
	if len(e.Policy) > 0 {
		text += "\n\nThe session's policy:\n  " + strings.Join(e.Policy, "\n  ")
	}
	return text
}

// trailRecord is a record as explain reads it.
type trailRecord struct {
	Seq uint64 `json:"seq"`
	audit.Record
	audit.Personal
	Transaction *callText       `json:"transaction"`
	Detail      json.RawMessage `json:"detail"`
}

// callText is a transaction as the trail or a request has it.
type callText struct {
	ChainID  json.RawMessage `json:"chainId"`
	From     string          `json:"from"`
	To       string          `json:"to"`
	Data     string          `json:"data"`
	Input    string          `json:"input"`
	Selector string          `json:"selector"` // of a refusal, whose record has no calldata
	Value    json.RawMessage `json:"value"`
}

// explainRecord explains the record of that number.
func (t *tool) explainRecord(c *cli.Context, number uint64, calls *callNames) (*explanation, error) {
	p, err := findAgent(c)
	if err != nil {
		return nil, err
	}
	r, err := findRecord(p.dirs.AuditTrail(), func(r *trailRecord) bool { return r.Seq == number })
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fmt.Errorf("the audit trail here has no record %d", number)
	}
	e := &explanation{Record: r.Seq, Who: r.who(), Asked: calls.asked(r)}
	if v := r.Verdict; v != nil {
		e.Reason, e.Compared, e.Pass = v.Reason, v.Message, advice(v.Reason)
	}
	var detail string
	_ = json.Unmarshal(r.Detail, &detail) // of other events it is no string
	switch r.Event {
	case audit.SignGranted:
		e.Verdict, e.Pass = "It was granted: the policy and every limit allowed it", ""
		if r.Verdict != nil && r.Verdict.Repeat {
			e.Verdict = "It was granted, and cost nothing: the same transaction had been signed before"
		}
	case audit.SignDenied, audit.MessageRefused:
		e.Verdict = "It was refused: " + reasonText(e.Reason)
	case audit.AccessRefused:
		e.Verdict = "It was refused: there is no such session, or this client may not use it"
		e.Pass = "To let this client use a session, the operator types: keyward session set-clients ID --client …"
	case audit.SignFailed:
		e.Verdict, e.Compared = "It was granted, and no signature was released", "The device or the agent said: "+detail
	case audit.RefusalsSummary:
		e.Verdict, e.Compared = "This record counts refusals that have none of their own", string(r.Detail)
	default:
		e.Verdict, e.Compared = "The event is "+string(r.Event), ""
	}
	if r.Session == "" || r.Event == audit.RefusalsSummary {
		return e, nil
	}
	made, err := findRecord(p.dirs.AuditTrail(), func(m *trailRecord) bool {
		return m.Session == r.Session && (m.Event == audit.SessionCreated || m.Event == audit.SessionImported)
	})
	if err == nil && made != nil { // its segment may be archived
		var whole struct {
			Spec *policy.Spec `json:"spec"`
		}
		if json.Unmarshal(made.Detail, &whole) == nil && whole.Spec != nil {
			e.Policy = whole.Spec.Describe()
		}
	}
	return e, nil
}

// findRecord returns the first record that is wanted; nil if there is none.
func findRecord(path string, wanted func(*trailRecord) bool) (*trailRecord, error) {
	trail, err := audit.OpenSegments(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no audit trail here: %w", err)
	}
	if err != nil {
		return nil, err
	}
	defer trail.Close()
	lines := bufio.NewReaderSize(trail, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading audit trail: %w", err)
		}
		var r trailRecord
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, withHint(withCode(exitDamaged, fmt.Errorf("%w: a line is no record", audit.ErrDamaged)),
				"keyward audit verify")
		}
		if wanted(&r) {
			return &r, nil
		}
	}
}

// who names the peer of the record.
func (r *trailRecord) who() string {
	if r.Erased() {
		return "At " + when(&r.Time) + " a client, of which everything personal was erased from the trail,"
	}
	return who(r.Peer, r.Time)
}

// who names the peer of a record.
func who(p *audit.Peer, at time.Time) string {
	if p == nil {
		return "At " + when(&at) + " the agent itself acted"
	}
	name := fmt.Sprintf("uid %d", p.UID)
	if u, err := user.LookupId(strconv.FormatUint(uint64(p.UID), 10)); err == nil {
		name = fmt.Sprintf("user %s (uid %d)", u.Username, p.UID)
	}
	if p.Exe != "" {
		name += " with " + p.Exe
	}
	return "At " + when(&at) + " " + name + ", process " + strconv.Itoa(int(p.PID)) + ","
}

// explainFile explains a request by what the agent says to it now, or the error that an app got.
func (t *tool) explainFile(c *cli.Context, name string, calls *callNames) (*explanation, error) {
	data, err := t.readInput(name)
	if err != nil {
		return nil, err
	}
	data = bytes.TrimSpace(data)
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, inFile(name, usageError("not a JSON object: want a transaction, or the error that an app got"))
	}
	if inner := members["error"]; inner != nil { // a whole JSON-RPC answer
		data, members = inner, nil
		_ = json.Unmarshal(inner, &members)
	}
	if members["code"] != nil {
		var reply api.Error
		if err := json.Unmarshal(data, &reply); err != nil {
			return nil, inFile(name, err)
		}
		return explainError(&reply), nil
	}
	if members["reason"] != nil { // an error's data alone
		return explainError(&api.Error{Code: api.CodeDenied, Data: data}), nil
	}
	return t.explainRequest(c, data, calls)
}

func (t *tool) explainRequest(c *cli.Context, tx []byte, calls *callNames) (*explanation, error) {
	cl, err := t.dialAgent(c)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	if c.IsSet("session") {
		id, err := wholeID(c.Context, cl.Sessions, c.String("session"))
		if err != nil {
			return nil, err
		}
		tx = withMember(tx, "session", id)
	}
	var call callText
	_ = json.Unmarshal(tx, &call) // the agent says what is wrong with it
	asked := calls.asked(&trailRecord{Transaction: &call})
	verdict, err := cl.Simulate(c.Context, json.RawMessage(tx))
	if reply := new(api.Error); errors.As(err, &reply) {
		e := explainError(reply)
		e.Asked = "The request " + asked
		return e, nil
	}
	if err != nil {
		return nil, err
	}
	e := &explanation{Verdict: "The agent would sign it now"}
	if !verdict.Allow {
		e = explainDenial(verdict.Message, verdict.Denial)
	}
	e.Asked = "The request " + asked
	if sess, err := cl.Session(c.Context, verdict.Session); err == nil && sess.Session != nil {
		e.Policy = sess.Session.Describe()
	}
	return e, nil
}

func explainError(reply *api.Error) *explanation {
	if d := reply.Denial(); d != nil {
		return explainDenial(strings.TrimPrefix(reply.Message, "User denied: "), d)
	}
	data := reply.Details()
	e := &explanation{Verdict: "It was not signed: " + message(reply), Reason: data.Reason, Pass: advice(data.Reason)}
	if data.Path != "" {
		e.Compared = "The field is " + data.Path
	}
	switch {
	case data.Hint != "":
		e.Pass = "What to do: " + data.Hint
	case data.Retryable && e.Pass == "":
		e.Pass = "The same request may succeed later, and costs nothing more"
	}
	return e
}

// explainDenial says what a denial compared.
func explainDenial(text string, d *api.Denial) *explanation {
	e := &explanation{Verdict: "It was refused", Compared: text, Reason: d.Reason, Pass: advice(d.Reason)}
	if d.Reason != "" {
		e.Verdict += ": " + reasonText(d.Reason)
	}
	if text == "" {
		e.Compared = strings.TrimSpace(strings.TrimPrefix(d.Revert+": "+d.Detail, ": "))
	}
	var rule []string
	if d.Policy != nil {
		rule = append(rule, fmt.Sprintf("policy %d", *d.Policy))
	}
	if d.Constraint != nil {
		rule = append(rule, fmt.Sprintf("constraint %d", *d.Constraint))
	}
	if d.Tracker != nil {
		rule = append(rule, "limit "+d.Tracker.String())
	}
	if rule != nil {
		e.Compared = strings.TrimSuffix(e.Compared, ".") + " (" + strings.Join(rule, ", ") + ", counted from 0)"
	}
	if d.Limit != nil && d.Used != nil && d.Asked != nil && d.Remaining != nil {
		e.Compared += fmt.Sprintf(": of %s, %s are used and %s are left, and %s were asked for", d.Limit, d.Used, d.Remaining,
			d.Asked)
		e.Pass = fmt.Sprintf("A request for at most %s passes; %s", d.Remaining,
			strings.TrimPrefix(e.Pass, "A smaller amount passes; "))
	}
	return e
}
