// Package kmsfake is an AWS KMS for tests: the JSON 1.1 protocol, request signatures that are
// checked, real ECDSA and AES-GCM, key states, aliases, tags and pages of results, as AWS
// documents them, and faults to order. It is written without the SDK, whose mistakes it would
// share otherwise.
//
// Keys are in memory and protected by nothing.
package kmsfake

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Credentials that requests have to be signed with.
type Credentials struct {
	AccessKeyID, SecretAccessKey string
	SessionToken                 string // "": none is expected
}

// Server is an http.Handler. Its fields are set before the first request.
type Server struct {
	Region      string        // that requests have to be signed for; "": us-east-1
	Account     string        // 12 digits; "": 111122223333
	Credentials Credentials   // zero: DefaultCredentials
	Latency     time.Duration // before each answer
	PageSize    int           // at most so many results on a page; 0: as AWS has it

	mu       sync.Mutex
	keys     map[string]*key   // by key ID
	order    []string          // key IDs, oldest first
	aliases  map[string]string // name to key ID
	faults   map[string][]*Fault
	hide     int // calls that do not see the next new key
	calls    map[string]int
	inFlight atomic.Int64
	most     atomic.Int64
}

// DefaultCredentials are AWS's documentation's.
var DefaultCredentials = Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE",
	SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}

const (
	defaultRegion  = "us-east-1"
	defaultAccount = "111122223333"
	maxBody        = 1 << 20
)

// Fault is what happens to a call instead of, or beside, its normal course.
type Fault struct {
	Code    string        // answer with this exception, having done nothing
	Message string        // of the exception; "": one like AWS's
	Status  int           // of the exception; 0: 400
	Delay   time.Duration // wait first; ended by the client's hanging up
	Cut     bool          // do what was asked, then close the connection without an answer
	CutHard bool          // close the connection having done nothing
	// Alter changes the body of the answer.
	Alter func(body []byte) []byte
	// OtherKey makes Sign use another private key.
	OtherKey bool
}

// Inject makes the next n calls of an operation, "Sign" say, have a fault; n < 0: all calls
// until [Server.Clear]. Faults of one operation come in the order in which they were injected.
func (s *Server) Inject(operation string, n int, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults == nil {
		s.faults = map[string][]*Fault{}
	}
	if n < 0 {
		s.faults[operation+"*"] = []*Fault{&f}
		return
	}
	for range n {
		s.faults[operation] = append(s.faults[operation], &f)
	}
}

// Clear forgets all faults that were injected.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Calls is how often an operation was called, with whatever result; "": any operation.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if operation != "" {
		return s.calls[operation]
	}
	sum := 0
	for _, n := range s.calls {
		sum += n
	}
	return sum
}

// MostInFlight is how many requests were being answered at one time, at most.
func (s *Server) MostInFlight() int { return int(s.most.Load()) }

// exception is an error as KMS reports it.
type exception struct {
	code, message string
	status        int
}

func (e *exception) Error() string { return e.code + ": " + e.message }

func fail(code, format string, args ...any) error {
	return &exception{code: code, message: fmt.Sprintf(format, args...), status: http.StatusBadRequest}
}

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return // the client is gone, or floods us
	}
	operation, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	if r.Method != http.MethodPost || r.URL.Path != "/" || !ok ||
		r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		answer(w, nil, fail("UnknownOperationException", "no such operation"))
		return
	}
	fault := s.begin(operation)
	if !sleep(r, s.Latency+fault.Delay) {
		return
	}
	if fault.CutHard {
		panic(http.ErrAbortHandler)
	}
	result, err := s.perform(operation, r, body, fault)
	if fault.Cut {
		panic(http.ErrAbortHandler) // net/http closes the connection
	}
	if fault.Alter != nil && err == nil {
		result = fault.Alter(result)
	}
	answer(w, result, err)
}

// begin counts the call and takes the fault that is due.
func (s *Server) begin(operation string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = map[string]int{}
	}
	s.calls[operation]++
	if due := s.faults[operation]; len(due) > 0 {
		s.faults[operation] = due[1:]
		return due[0]
	}
	if always := s.faults[operation+"*"]; len(always) > 0 {
		return always[0]
	}
	return &Fault{}
}

// sleep waits, and reports whether the client did too.
func sleep(r *http.Request, d time.Duration) bool {
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// perform checks who calls and does what is asked.
func (s *Server) perform(operation string, r *http.Request, body []byte, fault *Fault) ([]byte, error) {
	if err := s.authenticate(r, body); err != nil {
		return nil, err
	}
	if fault.Code != "" {
		return nil, s.asOrdered(operation, body, fault)
	}
	op := operations[operation]
	if op == nil {
		return nil, fail("UnknownOperationException", "no operation %s", operation)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := op(s, body, fault)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// asOrdered is the exception that fault orders.
func (s *Server) asOrdered(operation string, body []byte, fault *Fault) error {
	e := &exception{code: fault.Code, message: fault.Message, status: http.StatusBadRequest}
	if fault.Status != 0 {
		e.status = fault.Status
	}
	if e.message != "" {
		return e
	}
	var in struct{ KeyId string }
	_ = json.Unmarshal(body, &in) // what has no KeyId is about all keys
	resource := "*"
	if in.KeyId != "" {
		resource = in.KeyId
	}
	switch fault.Code {
	case "AccessDeniedException":
		e.message = fmt.Sprintf("User: arn:aws:iam::%s:user/keyward is not authorized to perform: kms:%s on resource: %s "+
			"because no identity-based policy allows the kms:%s action",
			s.account(), operation, resource, operation)
	case "ThrottlingException":
		e.message = "Rate exceeded"
	case "ExpiredTokenException":
		e.message = "The security token included in the request is expired"
	default:
		e.message = fault.Code + " was ordered"
	}
	return e
}

func (s *Server) region() string {
	if s.Region == "" {
		return defaultRegion
	}
	return s.Region
}

func (s *Server) account() string {
	if s.Account == "" {
		return defaultAccount
	}
	return s.Account
}

// SetCredentials replaces the credentials that requests have to be signed with.
func (s *Server) SetCredentials(c Credentials) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Credentials = c
}

func (s *Server) credentials() Credentials {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Credentials == (Credentials{}) {
		return DefaultCredentials
	}
	return s.Credentials
}

// answer writes an answer as AWS's JSON 1.1 protocol has it.
func answer(w http.ResponseWriter, result []byte, err error) {
	status := http.StatusOK
	if err != nil {
		e := &exception{code: "KMSInternalException", message: err.Error(), status: http.StatusInternalServerError}
		if known, ok := err.(*exception); ok {
			e = known
		}
		status = e.status
		result, _ = json.Marshal(map[string]string{"__type": e.code, "message": e.message})
	}
	if bytes.Equal(result, []byte("null")) {
		result = nil // operations without a result have an empty body
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-RequestId", uuid())
	w.WriteHeader(status)
	_, _ = w.Write(result)
}

// uuid is a random one (RFC 9562, section 5.4).
func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
