package policy

import (
	"errors"
	"io"
	"iter"
	"math"
	"strings"

	"github.com/holiman/uint256"
)

// RegistryCase is a session and what the registry says of its policies, in the format of
// testdata/registry-vectors.jsonl.gz.
type RegistryCase struct {
	Name     string
	ChainID  uint64
	Session  Spec
	Registry Registry
}

// Registry is the registry's answers; what it does not name is Unset.
type Registry map[RegistryQuery]RegistryStatus

// Status is the answer to q.
func (r Registry) Status(q RegistryQuery) RegistryStatus { return r[q] }

// LintResult is the verdict on a [RegistryCase].
type LintResult struct {
	Case     string    `json:"case"`
	OK       bool      `json:"ok"`
	Error    string    `json:"error"`    // the SDK's, "" if it lets the session pass
	Warnings []Warning `json:"warnings"` // what the SDK does not say; never nil
}

// Lint gives the SDK's verdict on the case. On a chain that has no production rules, what
// breaks them is among the warnings.
func (c *RegistryCase) Lint(rules WarningRules) LintResult {
	result := LintResult{Case: c.Name, OK: true}
	violations := c.Session.CheckProduction(c.Registry.Status)
	if c.ChainID == ProductionChain && len(violations) > 0 {
		result.OK, result.Error = false, violations[0].Message
		violations = violations[1:]
	}
	result.Warnings = append(ViolationWarnings(violations), c.Session.Warnings(rules)...)
	return result
}

// ReadRegistryCases is [ReadCases] for registry cases.
func ReadRegistryCases(r io.Reader) iter.Seq2[*RegistryCase, error] {
	return readLines(r, func(line []byte) (*RegistryCase, string, error) {
		c, err := ParseRegistryCase(line)
		return c, c.Name, err
	})
}

// ParseRegistryCase reads one case, strictly; the verdict, where the line has one, is not
// looked at. The error is a *[JSONError]; the case beside it is never nil and has the name, if
// that could be read.
func ParseRegistryCase(data []byte) (*RegistryCase, error) {
	v, err := parseJSON(data, maxCaseBytes, maxRegistryMembers)
	if err != nil {
		return &RegistryCase{}, err
	}
	var d decoder
	o := d.object(v, "", "name", "chainId", "session", "registry", "ok", "error")
	c := RegistryCase{Name: o.string("name"), ChainID: o.uint64("chainId")}
	if session := o.member("session"); session != nil {
		c.Session = d.spec(session, "session", true)
	}
	if registry := o.member("registry"); registry != nil {
		c.Registry = d.registry(registry, "registry")
	}
	if d.err != nil {
		return &c, d.err
	}
	return &c, nil
}

// ParseRegistry reads a registry's answers, the value of a case's "registry". The
// error is a *[JSONError].
func ParseRegistry(data []byte) (Registry, error) {
	v, err := parseJSON(data, maxCaseBytes, maxRegistryMembers)
	if err != nil {
		return nil, err
	}
	var d decoder
	r := d.registry(v, "")
	if d.err != nil {
		return nil, d.err
	}
	return r, nil
}

func (d *decoder) registry(v *jsonNode, path string) Registry {
	r := make(Registry)
	o := d.object(v, path, "call", "transfer", "approval")
	o.statuses("call", r, parseCallKey)
	o.statuses("transfer", r, parseTransferKey)
	o.statuses("approval", r, parseApprovalKey)
	return r
}

// statuses reads the answers of one list. Letter case makes no new key, so one that names
// the same twice is refused.
func (o jsonObjectReader) statuses(key string, into Registry, parse func(string) (RegistryQuery, error)) {
	list := o.member(key)
	if list == nil {
		return
	}
	if list.Kind != KindObject {
		o.d.fail(o.at(key), "must be an object, not %v", list.Kind)
		return
	}
	for i := range list.Members {
		m := &list.Members[i]
		path := o.at(key) + "." + quoted(m.Key)
		q, err := parse(m.Key)
		if err != nil {
			o.d.fail(path, "%v", err)
			return
		}
		status := o.d.uint(&m.Value, path)
		if _, twice := into[q]; twice {
			o.d.fail(path, "names the same policy twice")
		}
		into[q] = registryStatus(&status)
	}
}

// registryStatus makes a status of a number. The SDK compares it with Allowed and has no word for any above
// [Blocked], so one that is too large for the type stays unknown.
func registryStatus(n *uint256.Int) RegistryStatus {
	if n.GtUint64(math.MaxUint8) {
		return math.MaxUint8
	}
	return RegistryStatus(n.Uint64())
}

var (
	errCallKey     = errors.New(`must be "target:selector"`)
	errApprovalKey = errors.New(`must be "token:spender"`)
)

func parseCallKey(key string) (RegistryQuery, error) {
	q := RegistryQuery{Kind: CallPolicy}
	target, selector, _ := strings.Cut(key, ":")
	if q.Target.UnmarshalText([]byte(target)) != nil || q.Selector.UnmarshalText([]byte(selector)) != nil {
		return q, errCallKey
	}
	return q, nil
}

func parseTransferKey(key string) (RegistryQuery, error) {
	q := RegistryQuery{Kind: TransferPolicy}
	return q, q.Target.UnmarshalText([]byte(key))
}

func parseApprovalKey(key string) (RegistryQuery, error) {
	q := RegistryQuery{Kind: ApprovalTarget}
	token, spender, _ := strings.Cut(key, ":")
	if q.Target.UnmarshalText([]byte(token)) != nil || q.Spender.UnmarshalText([]byte(spender)) != nil {
		return q, errApprovalKey
	}
	return q, nil
}
