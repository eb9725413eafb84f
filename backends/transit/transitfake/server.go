// Package transitfake is a Vault for tests, as its API documents it: the transit engine with derived keys, AppRole and
// Kubernetes logins, tokens that end and are renewed, namespaces, health, and the faults that a test asks for.
// https://developer.hashicorp.com/vault/api-docs
package transitfake

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Server is a Vault in memory. Its zero value has no keys, accepts no token, and is unsealed.
type Server struct {
	Namespace string        // that each request but those for the health has to name
	Mount     string        // of the transit engine; "": "transit"
	TokenLife time.Duration // of tokens from logins; 0: one hour
	MaxLife   time.Duration // that no renewal goes beyond, counted from the login; 0: no bound
	Fixed     bool          // tokens from logins can't be renewed
	Latency   time.Duration // of each answer

	mu     sync.Mutex
	keys   map[string]*Key
	tokens map[string]*token
	roles  map[string]map[string]bool // secrets that log in, by auth mount and role
	issued int
	state  int // status of the health; 0: 200
	calls  map[string]int
	faults map[string][]Fault
}

type token struct {
	made, ends time.Time // ends is zero: it does not
	renewable  bool
	denied     map[string]bool // paths
}

// Fault is what happens to a call instead of, or beside, what it asks for. The zero Fault is none.
type Fault struct {
	Status     int      // of the answer, with Errors
	Errors     []string // nil: none
	RetryAfter int      // seconds
	Body       string   // of the answer with Status, instead of Errors
	Delay      time.Duration
	Cut        bool // the connection is cut after the call was done
	CutHard    bool // the connection is cut, and nothing is done
}

// Inject has a fault happen to the next calls of an operation: "encrypt", "decrypt", "keys", "login", "renew-self",
// "lookup-self" or "health"; times -1: to each.
func (s *Server) Inject(operation string, times int, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults == nil {
		s.faults = map[string][]Fault{}
	}
	if times < 0 {
		times = 1 << 16
	}
	for range times {
		s.faults[operation] = append(s.faults[operation], f)
	}
}

// Clear ends all faults.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Calls counts the calls of an operation.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

// SetHealth sets the status of sys/health: 200 active, 429 standby, 501 not initialized, 503 sealed. A sealed or
// uninitialized server answers other calls with 503.
func (s *Server) SetHealth(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = status
}

// AddToken has Vault accept a token for that long; 0: without end.
func (s *Server) AddToken(value string, life time.Duration, renewable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addToken(value, life, renewable)
}

func (s *Server) addToken(value string, life time.Duration, renewable bool) {
	t := &token{made: time.Now(), renewable: renewable, denied: map[string]bool{}}
	if life > 0 {
		t.ends = t.made.Add(life)
	}
	if s.tokens == nil {
		s.tokens = map[string]*token{}
	}
	s.tokens[value] = t
}

// RevokeTokens has Vault accept none of the tokens that there are.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = nil
}

// Deny has Vault deny a path to all tokens that there are.
func (s *Server) Deny(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		t.denied[path] = true
	}
}

// AddRole has a secret log in: an AppRole's secret ID, or a service account's token. role is the role ID, or the name
// of the Kubernetes role; mount is that of the auth method.
func (s *Server) AddRole(mount, role, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.roles == nil {
		s.roles = map[string]map[string]bool{}
	}
	at := mount + " " + role
	if s.roles[at] == nil {
		s.roles[at] = map[string]bool{}
	}
	s.roles[at][secret] = true
}

// RemoveRole has a role's secrets log in no more.
func (s *Server) RemoveRole(mount, role string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.roles, mount+" "+role)
}

// request is one call.
type request struct {
	method, path string
	body         []byte
	token        string
}

func (r *request) decode(into any) error { return json.Unmarshal(r.body, into) }

func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	r := &request{req.Method, strings.TrimPrefix(req.URL.Path, "/v1/"), body, req.Header.Get("X-Vault-Token")}
	s.mu.Lock()
	operation := r.operation(s.mount())
	fault := s.next(operation)
	s.mu.Unlock()
	if wait := fault.Delay + s.Latency; wait > 0 {
		select {
		case <-time.After(wait):
		case <-req.Context().Done():
		}
	}
	if fault.CutHard {
		panic(http.ErrAbortHandler)
	}
	if fault.Status != 0 {
		fault.serve(w)
		return
	}
	if fault.Cut {
		s.serve(discard{http.Header{}}, r, req.Header)
		panic(http.ErrAbortHandler)
	}
	s.serve(w, r, req.Header)
}

// discard is an answer that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func (f *Fault) serve(w http.ResponseWriter) {
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(f.RetryAfter))
	}
	if f.Body != "" {
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
		return
	}
	fail(w, f.Status, f.Errors...)
}

func (s *Server) mount() string {
	if s.Mount != "" {
		return s.Mount
	}
	return "transit"
}

// operation is what [Server.Inject] calls the request.
func (r *request) operation(mount string) string {
	if rest, ok := strings.CutPrefix(r.path, mount+"/"); ok {
		what, _, _ := strings.Cut(rest, "/")
		return what
	}
	return r.path[strings.LastIndexByte(r.path, '/')+1:]
}

// next counts a call and takes its fault. The caller has the lock.
func (s *Server) next(operation string) (f Fault) {
	if s.calls == nil {
		s.calls = map[string]int{}
	}
	s.calls[operation]++
	if waiting := s.faults[operation]; len(waiting) > 0 {
		f, s.faults[operation] = waiting[0], waiting[1:]
	}
	return f
}

func (s *Server) serve(w http.ResponseWriter, r *request, header http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.path == "sys/health":
		s.health(w)
	case s.state == http.StatusServiceUnavailable || s.state == http.StatusNotImplemented:
		fail(w, http.StatusServiceUnavailable, "Vault is sealed")
	case header.Get("X-Vault-Request") != "true":
		fail(w, http.StatusPreconditionFailed, "missing 'X-Vault-Request' header")
	case header.Get("X-Vault-Namespace") != s.Namespace:
		fail(w, http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", r.path))
	case strings.HasPrefix(r.path, "auth/") && strings.HasSuffix(r.path, "/login"):
		s.login(w, r, strings.TrimSuffix(strings.TrimPrefix(r.path, "auth/"), "/login"))
	default:
		s.withToken(w, r)
	}
}

func (s *Server) health(w http.ResponseWriter) {
	if s.state == 0 {
		s.state = http.StatusOK
	}
	status := s.state
	if status == http.StatusTooManyRequests { // the client says that a standby will do
		status = http.StatusOK
	}
	w.WriteHeader(status)
	answer(w, map[string]any{"initialized": true, "sealed": s.state == http.StatusServiceUnavailable, "version": "1.14.1"})
}

// withToken serves what needs a token.
func (s *Server) withToken(w http.ResponseWriter, r *request) {
	t := s.tokens[r.token]
	if t == nil || !t.ends.IsZero() && time.Now().After(t.ends) || t.denied[r.path] {
		fail(w, http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
		return
	}
	rest, ok := strings.CutPrefix(r.path, s.mount()+"/")
	what, name, found := strings.Cut(rest, "/")
	switch {
	case ok && found:
		s.transit(w, r, what, name)
	case r.path == "auth/token/lookup-self":
		answer(w, map[string]any{"data": map[string]any{"ttl": t.left(), "renewable": t.renewable}})
	case r.path == "auth/token/renew-self" && !t.renewable:
		fail(w, http.StatusBadRequest, "lease is not renewable")
	case r.path == "auth/token/renew-self":
		t.ends = time.Now().Add(s.life())
		if limit := t.made.Add(s.MaxLife); s.MaxLife > 0 && t.ends.After(limit) {
			t.ends = limit
		}
		answer(w, s.auth(r.token, t))
	default:
		fail(w, http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", r.path))
	}
}

func (s *Server) life() time.Duration {
	if s.TokenLife > 0 {
		return s.TokenLife
	}
	return time.Hour
}

// left is the rest of the token's life in whole seconds; 0: no end.
func (t *token) left() int64 {
	if t.ends.IsZero() {
		return 0
	}
	return int64(time.Until(t.ends).Round(time.Second) / time.Second)
}

func (s *Server) auth(value string, t *token) map[string]any {
	return map[string]any{"auth": map[string]any{
		"client_token": value, "accessor": "a", "policies": []string{"default", "keyward"}, "lease_duration": t.left(),
		"renewable": t.renewable,
	}}
}

func (s *Server) login(w http.ResponseWriter, r *request, mount string) {
	var in struct {
		RoleID   string `json:"role_id"`
		SecretID string `json:"secret_id"`
		Role     string `json:"role"`
		JWT      string `json:"jwt"`
	}
	err := r.decode(&in)
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, "failed to parse JSON input")
	case in.JWT != "" && !s.roles[mount+" "+in.Role][in.JWT]:
		fail(w, http.StatusForbidden, "permission denied")
	case in.JWT == "" && !s.roles[mount+" "+in.RoleID][in.SecretID]:
		fail(w, http.StatusBadRequest, fmt.Sprintf("invalid secret_id %q", in.SecretID)) // Vault 1.14 says so in one case
	default:
		s.issued++
		value := fmt.Sprintf("hvs.login-%d", s.issued)
		s.addToken(value, s.life(), !s.Fixed)
		answer(w, s.auth(value, s.tokens[value]))
	}
}

func answer(w io.Writer, content any) { _ = json.NewEncoder(w).Encode(content) }

func fail(w http.ResponseWriter, status int, messages ...string) {
	if messages == nil {
		messages = []string{}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	answer(w, map[string]any{"errors": messages})
}
