package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// Errors of this package's own. Their text is what clients see.
var (
	errRestarting  = errors.New("the agent is restarting: send it again in a moment")
	errBusy        = errors.New("too many requests in flight: send it again in a moment")
	errConnections = errors.New("too many connections: this one gets no further answer")
	errMalformed   = errors.New("not a request")
	errNotOperator = errors.New("only the user that the agent runs as, and root, may use this socket")
	errNoSession   = errors.New("no session that this client may use")
	errInternal    = errors.New("internal error")
	errLeft        = errors.New("the client closed its connection before the approval came; the approval is kept for " +
		"the same request")
)

// paramError is a wrong parameter.
type paramError struct {
	path string // e.g. "params[0].from"
	msg  string
}

func (e *paramError) Error() string { return e.path + ": " + e.msg }

// badParam makes a [paramError].
func badParam(path, format string, args ...any) error {
	return &paramError{path, fmt.Sprintf(format, args...)}
}

// unsupported is a method that exists with other agents or nodes, and not here on purpose.
type unsupported struct{ method, why string }

func (e *unsupported) Error() string { return e.method + " is not supported: " + e.why }

// unknownMethod's text has the words by which ethers knows the case.
type unknownMethod struct{ method string }

func (e *unknownMethod) Error() string {
	return fmt.Sprintf("the method %s does not exist/is not available", shorten(e.method))
}

// replies says how errors that are tested with errors.Is are answered; the first that fits
// counts. A message "" means the error's own text; anything else hides it, since it
// may name devices and paths that are none of an app's business. The operator gets the text.
var replies = []struct {
	err     error
	code    int
	message string
	data    api.ErrorData
}{
	// The same whether there is no such signer or the client may not use it.
	{session.ErrUnknownSigner, api.CodeUnauthorized, session.ErrUnknownSigner.Error(),
		api.ErrorData{Reason: "unknownSigner"}},
	{errNoSession, api.CodeUnauthorized, "", api.ErrorData{Reason: "noSession"}},
	{errNotOperator, api.CodeUnauthorized, "", api.ErrorData{Reason: "notOperator"}},
	{session.ErrAmbiguous, api.CodeInvalidParams, "", api.ErrorData{Reason: "ambiguousSession", Path: "session"}},
	{session.ErrInvalid, api.CodeInvalidParams, "", api.ErrorData{Reason: "invalidParams"}},

	{session.ErrHalted, api.CodeUnavailable, session.ErrHalted.Error(),
		api.ErrorData{Reason: "halted", Hint: "see the agent's log, repair what it names, start the agent again"}},
	{session.ErrLocked, api.CodeUnavailable, "locked by the operator, who has to unlock it (keyward unlock)",
		api.ErrorData{Reason: "lockedByOperator", Retryable: true, Hint: "keyward unlock"}},
	{session.ErrClock, api.CodeUnavailable, session.ErrClock.Error(),
		api.ErrorData{Reason: "clockSkew", Retryable: true,
			Hint: "set the host's clock right; keyward status says by how much it is off"}},
	{session.ErrRegistryStale, api.CodeUnavailable, session.ErrRegistryStale.Error(),
		api.ErrorData{Reason: "registryStale", Retryable: true, Hint: "keyward status"}},
	{chain.ErrNotFound, api.CodeInvalidParams, "", api.ErrorData{Reason: "notOnChain"}},
	{chain.ErrWrongChain, api.CodeUnavailable, chain.ErrWrongChain.Error(),
		api.ErrorData{Reason: "wrongChainEndpoint", Hint: "keyward status"}},
	{chain.ErrGarbled, api.CodeUnavailable, chain.ErrGarbled.Error(),
		api.ErrorData{Reason: "chainGarbled", Retryable: true, Hint: "keyward status"}},
	{chain.ErrReverted, api.CodeUnavailable, chain.ErrReverted.Error(), api.ErrorData{Reason: "chainReverted"}},
	{chain.ErrUnavailable, api.CodeUnavailable, chain.ErrUnavailable.Error(),
		api.ErrorData{Reason: "chainUnavailable", Retryable: true, Hint: "keyward status"}},
	{errRestarting, api.CodeUnavailable, "", api.ErrorData{Reason: "restarting", Retryable: true}},
	{backends.ErrPINFinalTry, api.CodeUnavailable, "the key's device has one PIN try left, which the agent does not spend",
		api.ErrorData{Reason: "pinFinalTry", Hint: "reset the PIN's counter with the device's own tool, then: keyward unlock"}},
	{backends.ErrPINIncorrect, api.CodeUnavailable, "the key's device refused the PIN",
		api.ErrorData{Reason: "pinIncorrect", Hint: "keyward unlock"}},
	{backends.ErrAdminPINNeeded, api.CodeUnavailable, "the device needs its admin PIN: the operator has to give it",
		api.ErrorData{Reason: "deviceLocked", Retryable: true, Hint: "keyward unlock --backend NAME --admin-pin"}},
	{backends.ErrLocked, api.CodeUnavailable, "the key's device is locked: the operator has to give its PIN (keyward " +
		"unlock)",
		api.ErrorData{Reason: "deviceLocked", Retryable: true, Hint: "keyward unlock"}},
	{backends.ErrKeyDamaged, api.CodeUnavailable, "what is stored of the session's key is damaged",
		api.ErrorData{Reason: "keyDamaged", Hint: "put the key's file back from a backup"}},
	{backends.ErrBadSignature, api.CodeUnavailable, "the key's device made a bad signature, which is not released",
		api.ErrorData{Reason: "badSignature", Retryable: true, Hint: "keyward backend check"}},
	{backends.ErrKeyNotFound, api.CodeUnavailable, "the session's key is not in its device",
		api.ErrorData{Reason: "keyNotFound", Hint: "keyward key list"}},
	{backends.ErrKeyAmbiguous, api.CodeUnavailable, "the device has more than one key that answers to the session's",
		api.ErrorData{Reason: "keyAmbiguous", Hint: "keyward key list"}},
	{backends.ErrRefused, api.CodeUnavailable, "the key's device refused: its operator has to change something there",
		api.ErrorData{Reason: "deviceRefused", Hint: "keyward status"}},
	{backends.ErrNotTouched, api.CodeUnavailable, "the key's device was not touched in time: send it again, and touch " +
		"the device when it blinks",
		api.ErrorData{Reason: "notTouched", Retryable: true, Hint: "touch the device when it blinks"}},
	{backends.ErrBusy, api.CodeUnavailable, "the key's device is busy with other requests, or in use by another " +
		"program: send it again",
		api.ErrorData{Reason: "deviceBusy", Retryable: true, Hint: "keyward status"}},
	{backends.ErrUnavailable, api.CodeUnavailable, "the key's device is absent or does not answer",
		api.ErrorData{Reason: "deviceUnavailable", Retryable: true, Hint: "keyward status"}},
	{context.DeadlineExceeded, api.CodeUnavailable, "timed out; the same request may be sent again and costs nothing more",
		api.ErrorData{Reason: "timeout", Retryable: true}},
	{context.Canceled, api.CodeUnavailable, errRestarting.Error(), api.ErrorData{Reason: "restarting", Retryable: true}},

	{session.ErrNotVoter, api.CodeUnauthorized, "", api.ErrorData{Reason: "notOperator"}},
	{session.ErrNoApproval, api.CodeInvalidParams, "", api.ErrorData{Reason: "noApproval", Path: "id"}},
	{session.ErrNotApproved, api.CodeUnavailable, "the guard rules changed while the request waited for an approval: " +
		"send it again",
		api.ErrorData{Reason: "rulesChanged", Retryable: true}},
	{errLeft, api.CodeUnavailable, "", api.ErrorData{Reason: "clientLeft", Retryable: true}},
	{session.ErrApprovalsFull, api.CodeLimited, "too many requests wait for an operator's approval: send it again in a " +
		"moment",
		api.ErrorData{Reason: "tooManyRequests", Retryable: true}},
	{session.ErrOverloaded, api.CodeLimited, session.ErrOverloaded.Error() + ": send it again in a moment",
		api.ErrorData{Reason: "tooManyRequests", Retryable: true}},
	{errBusy, api.CodeLimited, "", api.ErrorData{Reason: "tooManyRequests", Retryable: true}},
	{errMemory, api.CodeLimited, "", api.ErrorData{Reason: "tooManyRequests", Retryable: true}},
	{errConnections, api.CodeLimited, "", api.ErrorData{Reason: "tooManyConnections", Retryable: true}},
}

// replyTo turns an error into what a client sees, or on admin.sock the operator. Nothing else does.
func replyTo(err error, operator bool) *api.Error {
	if reply := replyToType(err); reply != nil {
		return reply
	}
	for _, r := range replies {
		if errors.Is(err, r.err) {
			message, data := r.message, r.data
			if message == "" || operator {
				message = err.Error()
			}
			if operator && strings.Contains(message, "keyward unlock") { // it says so itself, and more exactly
				data.Hint = ""
			}
			return &api.Error{Code: r.code, Message: message, Data: encodeData(data)}
		}
	}
	message := errInternal.Error()
	if operator {
		message = err.Error()
	}
	// Not -32603, which viem sends again three times.
	return &api.Error{Code: api.CodeUnavailable, Message: message, Data: encodeData(api.ErrorData{Reason: "internal"})}
}

// replyToType answers the errors that carry data, or returns nil.
func replyToType(err error) *api.Error {
	if denial := new(policy.Denial); errors.As(err, &denial) {
		return &api.Error{Code: api.CodeDenied, Message: "User denied: " + denial.Error(), Data: encodeData(denial)}
	}
	if field := new(zktx.FieldError); errors.As(err, &field) {
		return invalidParams(field.Path, err)
	}
	if no := new(zktx.NotIncludable); errors.As(err, &no) {
		return &api.Error{Code: api.CodeInvalidParams, Message: "no node can include this transaction: " + no.Error(),
			Data: encodeData(api.ErrorData{Reason: "notIncludable", Path: no.Path, Detail: no.Rule + ": " + no.Msg})}
	}
	if param := new(paramError); errors.As(err, &param) {
		return invalidParams(param.path, err)
	}
	if method := new(unsupported); errors.As(err, &method) {
		return &api.Error{Code: api.CodeUnsupported, Message: err.Error(),
			Data: encodeData(api.ErrorData{Reason: "unsupportedMethod"})}
	}
	if method := new(unknownMethod); errors.As(err, &method) {
		return &api.Error{Code: api.CodeNoMethod, Message: err.Error(),
			Data: encodeData(api.ErrorData{Reason: "unknownMethod"})}
	}
	return nil
}

// invalidParams answers a client's mistake at path.
func invalidParams(path string, err error) *api.Error {
	return &api.Error{Code: api.CodeInvalidParams, Message: "invalid params: " + err.Error(),
		Data: encodeData(api.ErrorData{Reason: "invalidParams", Path: path})}
}

// reply answers a message that could not be understood.
func (b *badMessage) reply() *api.Error {
	reason := map[int]string{
		api.CodeParse:          "notJSON",
		api.CodeInvalidRequest: "invalidRequest",
		api.CodeInvalidParams:  "invalidParams",
		api.CodeLimited:        "tooManyRequests",
	}[b.code]
	return &api.Error{Code: b.code, Message: b.msg,
		Data: encodeData(api.ErrorData{Reason: reason, Retryable: b.code == api.CodeLimited})}
}

// encodeData encodes data, which has no values that JSON can't have.
func encodeData(data any) json.RawMessage {
	encoded, err := json.Marshal(data)
	if err != nil {
		return nil
	}
	return encoded
}

// logFailure tells the operator what a client is not told: why the agent could not do what
// it should. Refusals and clients' mistakes are in the audit trail or nobody's concern.
func logFailure(log *oftenLog, peer audit.Peer, method string, err error, reply *api.Error) {
	if reply.Code != api.CodeUnavailable || errors.Is(err, errRestarting) || errors.Is(err, session.ErrLocked) ||
		errors.Is(err, session.ErrClock) || errors.Is(err, session.ErrRegistryStale) { // the watcher tells once
		return
	}
	log.log(slog.LevelError, "request failed", "method", method, "uid", peer.UID, "pid", peer.PID, "error", err)
}
