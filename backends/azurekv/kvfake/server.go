// Package kvfake is an Azure Key Vault or Managed HSM on loopback, for tests: the client library's own
// fake served over real TLS, with the token's issuer beside it, real signatures, soft deletion
// and faults to order. Its keys are not protected by anything, and no build of the agent has it.
package kvfake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys/fake"

	"github.com/keyward/keyward/internal/testca"
)

const (
	tenant = "11111111-2222-3333-4444-555555555555"
	issuer = "login.microsoftonline.com"
	token  = "the token of the test"
)

// Env is what DefaultAzureCredential finds its credentials by.
var Env = map[string]string{
	"AZURE_TENANT_ID": tenant, "AZURE_CLIENT_ID": "keyward", "AZURE_CLIENT_SECRET": "a-secret-that-no-error-shows",
	"AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
}

// Server is one vault.
type Server struct {
	URL string // https://HOST, which Dial connects to this server

	host string
	tls  *httptest.Server
	fake *fake.ServerTransport

	mu        sync.Mutex
	keys      map[string]*key // by name
	order     []string        // of names, as they were made
	faults    map[string]*Fault
	calls     map[string]int
	challenge string // instead of the right one
	deleting  int    // times that a purge is told that the key is still being deleted
}

// Fault is what goes wrong in calls of one operation.
type Fault struct {
	Times  int               // calls that it befalls; 0: all
	Status int               // answered without doing anything; 0: none
	Code   string            // with Status: the inner code
	Header map[string]string // with Status
	Delay  time.Duration     // before doing anything, unless the caller leaves
	Cut    bool              // what was asked is done, then the connection is cut
	Change func(body []byte) []byte
	Then   *Fault // what befalls the calls after these; nil: nothing
}

// Start starts a vault of that host name. Its certificate is by ca.
func Start(host string, ca *testca.CA) (*Server, error) {
	config, err := ca.Server(host, issuer)
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "https://" + host, host: host, keys: map[string]*key{}, faults: map[string]*Fault{},
		calls: map[string]int{}}
	s.fake = fake.NewServerTransport(s.operations())
	s.tls = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.tls.TLS = config
	s.tls.StartTLS()
	return s, nil
}

// Close stops the server.
func (s *Server) Close() {
	s.tls.CloseClientConnections()
	s.tls.Close()
}

// SetKeepAlivesEnabled is [http.Server.SetKeepAlivesEnabled].
func (s *Server) SetKeepAlivesEnabled(on bool) { s.tls.Config.SetKeepAlivesEnabled(on) }

// Dial connects to the server whatever the address is.
func (s *Server) Dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, s.tls.Listener.Addr().String())
}

// Fault orders a fault of an operation: "token", "CreateKey", "GetKey", "Sign", "DeleteKey", "PurgeDeletedKey" or
// "NewListKeyPropertiesPager". Nil: none.
func (s *Server) Fault(operation string, f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[operation] = f
	s.calls[operation] = 0
}

// Calls is how often the operation was asked for since Fault was called for it, or ever.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

// fault counts a call and returns what befalls it.
func (s *Server) fault(operation string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[operation]++
	f := s.faults[operation]
	if f == nil {
		return Fault{}
	}
	out := *f
	if f.Times == 1 {
		s.faults[operation] = f.Then
	}
	f.Times = max(0, f.Times-1)
	return out
}

// routes name the operation of a request, as the library's fake wants it.
var routes = []struct {
	method, operation string
	path              *regexp.Regexp
}{
	{"POST", "CreateKey", regexp.MustCompile(`^/keys/[^/]+/create$`)},
	{"POST", "Sign", regexp.MustCompile(`^/keys/[^/]+/[^/]*/sign$`)},
	{"GET", "NewListKeyPropertiesPager", regexp.MustCompile(`^/keys(/fake_page_[0-9]+)?$`)},
	{"GET", "GetKey", regexp.MustCompile(`^/keys/[^/]+/[^/]*$`)},
	{"DELETE", "DeleteKey", regexp.MustCompile(`^/keys/[^/]+$`)},
	{"DELETE", "PurgeDeletedKey", regexp.MustCompile(`^/deletedkeys/[^/]+$`)},
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Host == issuer:
		s.serveIssuer(w, r)
		return
	case r.Host != s.host:
		http.Error(w, "no such vault", http.StatusMisdirectedRequest)
		return
	case r.URL.Path == "/healthstatus":
		return
	case r.Header.Get("Authorization") != "Bearer "+token:
		w.Header().Set("WWW-Authenticate", s.challengeFor())
		refuse(w, http.StatusUnauthorized, "")
		return
	}
	for _, route := range routes {
		if r.Method == route.method && route.path.MatchString(r.URL.Path) {
			s.serveOperation(w, r, route.operation)
			return
		}
	}
	refuse(w, http.StatusNotFound, "")
}

func (s *Server) serveOperation(w http.ResponseWriter, r *http.Request, operation string) {
	f := s.fault(operation)
	body, err := io.ReadAll(r.Body) // only then does the server notice that the client leaves
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			return
		}
	}
	if f.Status != 0 {
		for name, value := range f.Header {
			w.Header().Set(name, value)
		}
		refuse(w, f.Status, f.Code)
		return
	}
	status, answer := s.do(r, operation)
	if f.Cut {
		panic(http.ErrAbortHandler)
	}
	if f.Change != nil {
		answer = f.Change(answer)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(answer) // the client may be gone
}

// SetChallenge has the vault ask for tokens with that header.
func (s *Server) SetChallenge(header string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.challenge = header
}

func (s *Server) challengeFor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.challenge != "" {
		return s.challenge
	}
	return fmt.Sprintf(`Bearer authorization="https://%s/%s", resource="https://%s"`, issuer, tenant,
		s.host[strings.Index(s.host, ".")+1:])
}

// transport is the library's fake. That gives a page once only and forgets a list that it has given, so a page is
// asked of another one, which has given those before it.
func (s *Server) transport(r *http.Request) *fake.ServerTransport {
	page, isPage := strings.CutPrefix(r.URL.Path, "/keys/fake_page_")
	if r.URL.Path != "/keys" && !isPage {
		return s.fake
	}
	t := fake.NewServerTransport(s.operations())
	last, _ := strconv.Atoi(page) // 0 for the first page
	for i := range last {
		before := r.Clone(r.Context())
		if before.URL.Path = "/keys"; i > 0 {
			before.URL.Path = fmt.Sprintf("/keys/fake_page_%d", i)
		}
		if resp, err := t.Do(before); err == nil {
			resp.Body.Close()
		}
	}
	return t
}

// do has the library's fake answer.
func (s *Server) do(r *http.Request, operation string) (status int, body []byte) {
	r.URL.Scheme, r.URL.Host = "https", s.host // a server's requests lack them, and links to pages are made of them
	// Not canceled with the client: the SDK's fake then sends to a channel that it has closed.
	r = r.WithContext(context.WithValue(context.WithoutCancel(r.Context()), runtime.CtxAPINameKey{}, "Client."+operation))
	resp, err := s.transport(r).Do(r)
	var refused *azcore.ResponseError
	if errors.As(err, &refused) {
		return refused.StatusCode, errorBody(refused.ErrorCode)
	}
	if err != nil {
		return http.StatusInternalServerError, errorBody(err.Error())
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		return http.StatusInternalServerError, errorBody(err.Error())
	}
	return resp.StatusCode, body
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Ms-Request-Id", "00000000-0000-0000-0000-000000000000")
	w.WriteHeader(status)
	_, _ = w.Write(errorBody(code))
}

// errorBody is an error as a vault gives it, whose exact code is the inner one.
func errorBody(code string) []byte {
	body, err := json.Marshal(map[string]any{"error": map[string]any{
		"code": "Failed", "message": "as the service says", "innererror": map[string]string{"code": code},
	}})
	if err != nil {
		panic(err)
	}
	return body
}

// serveIssuer gives tokens to who knows the secret (RFC 6749, section 4.4).
func (s *Server) serveIssuer(w http.ResponseWriter, r *http.Request) {
	base := "https://" + issuer + "/" + tenant
	answer := map[string]any{}
	switch {
	case strings.HasSuffix(r.URL.Path, "/discovery/instance"):
		answer["tenant_discovery_endpoint"] = base + "/v2.0/.well-known/openid-configuration"
		answer["metadata"] = []any{map[string]any{"preferred_network": issuer, "preferred_cache": issuer,
			"aliases": []string{issuer}}}
	case strings.HasSuffix(r.URL.Path, "/openid-configuration"):
		answer["token_endpoint"], answer["authorization_endpoint"], answer["issuer"] = base+"/oauth2/v2.0/token", base+
			"/oauth2/v2.0/authorize", base+"/v2.0"
	default:
		f := s.fault("token")
		status := http.StatusOK
		answer["token_type"], answer["expires_in"], answer["access_token"] = "Bearer", 3600, token
		if f.Status != 0 || r.PostFormValue("client_secret") != Env["AZURE_CLIENT_SECRET"] {
			status = max(f.Status, http.StatusUnauthorized)
			answer = map[string]any{"error": "invalid_client",
				"error_description": "AADSTS7000222: the provided client secret keys are expired"}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
	}
	_ = json.NewEncoder(w).Encode(answer) // the client may be gone
}
