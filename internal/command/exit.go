package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// Exit codes. Those above 64 are sysexits(3)'s, as systemd shows them too: its own names for 4 and 5 would tell of
// missing permissions.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitDenied      = 3
	exitUnreachable = 69 // EX_UNAVAILABLE
	exitDamaged     = 65 // EX_DATAERR
)

const about = `--dir DIRECTORY and --json go with every command, before or after its name.
"keyward help COMMAND" says more about one.

Exit codes: 0 ok · 1 failed · 2 wrong usage · 3 denied by policy ·
10 degraded, 11 locked, 12 halted (status) ·
65 audit trail or state damaged · 69 agent not reachable`

// cliError adds an exit code and advice to an error.
type cliError struct {
	err  error
	code int    // 0: as err says
	hint string // the next command to type; "": none
}

func (e *cliError) Error() string { return e.err.Error() }
func (e *cliError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return &cliError{err: fmt.Errorf(format, args...), code: exitUsage}
}

func withHint(err error, format string, args ...any) error {
	return &cliError{err: err, hint: fmt.Sprintf(format, args...)}
}

func withCode(code int, err error) error { return &cliError{err: err, code: code} }

// report prints err and returns the exit code that it stands for.
func (t *tool) report(err error) int {
	if err == nil {
		return exitOK
	}
	code, hint := verdictOn(err)
	t.fault(err, code, hint)
	return code
}

// fault says on stderr what is wrong, and what to do; hint may be "".
func (t *tool) fault(err error, code int, hint string) {
	if t.json {
		t.faultJSON(err, code, t.forHere(hint))
		return
	}
	t.note("error: %s", message(err))
	t.hint("%s", hint)
}

// jsonError is an error with --json, one line on stderr.
type jsonError struct {
	Error struct {
		Message  string          `json:"message"`
		ExitCode int             `json:"exitCode"`
		Hint     string          `json:"hint,omitempty"` // the next command to type
		Code     int             `json:"code,omitempty"` // of the agent's error, as in docs/protocol.md
		Data     json.RawMessage `json:"data,omitempty"` // its data
	} `json:"error"`
}

func (t *tool) faultJSON(err error, code int, hint string) {
	var out jsonError
	out.Error.Message, out.Error.ExitCode, out.Error.Hint = message(err), code, hint
	var reply *api.Error
	if errors.As(err, &reply) {
		out.Error.Code, out.Error.Data = reply.Code, reply.Data
	}
	enc := json.NewEncoder(t.stderr)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil { // data that is no JSON
		t.note("error: %s", out.Error.Message)
	}
}

// message is the error's text. A denial's has neither JSON-RPC's code nor the
// prefix that programs look for.
func message(err error) string {
	var reply *api.Error
	if !errors.As(err, &reply) {
		return err.Error()
	}
	if reply.Code == api.CodeDenied {
		return "denied: " + strings.TrimPrefix(reply.Message, "User denied: ")
	}
	return reply.Message
}

// verdictOn finds an error's exit code and hint: the outermost that it carries, or
// else what its kind says.
func verdictOn(err error) (code int, hint string) {
	var ce *cliError
	for e := err; errors.As(e, &ce); e = ce.err {
		if code == 0 {
			code = ce.code
		}
		if hint == "" {
			hint = ce.hint
		}
	}
	var reply *api.Error
	if errors.As(err, &reply) && hint == "" {
		hint = reply.Details().Hint
	}
	if code != 0 {
		return code, hint
	}
	switch {
	case reply != nil && reply.Code == api.CodeDenied:
		return exitDenied, hint
	case errors.Is(err, audit.ErrDamaged), errors.Is(err, audit.ErrAhead), errors.Is(err, session.ErrDamaged):
		return exitDamaged, hint
	}
	return exitFailed, hint
}
