package chaintest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
)

// Fault is what a [Proxy] does to every request.
type Fault int

const (
	None            Fault = iota
	Slow                  // no answer for as long as the client waits
	WrongChain            // the node's answers, with the chain id of another chain
	Garbled               // HTTP 200 with a page of HTML
	Truncated             // half of the node's answer
	Huge                  // JSON without end
	TooManyRequests       // HTTP 429, Retry-After 1
	LimitExceeded         // JSON-RPC error -32005 for the batch as a whole
	CallsRefused          // JSON-RPC error -32005 for every call but eth_chainId's
	Short                 // a batch without its last answer
	ServerError           // HTTP 503
	Gone                  // the connection is closed without an answer
)

// wrongChainID is what [WrongChain] answers.
const wrongChainID = `"0x1"`

// Message is a call and the node's answer to it, for [Proxy.Rewrite].
type Message struct {
	Method string
	Params []json.RawMessage
	Result json.RawMessage // nil if the node refused

	refusal int
}

// Refuse makes the answer a JSON-RPC error.
func (m *Message) Refuse(code int) { m.refusal = code }

// Proxy is between a client and a node, and does wrong when told to.
type Proxy struct {
	URL string

	t       testing.TB
	closing chan struct{}

	mu      sync.Mutex
	node    string // its URL
	fault   Fault
	rewrite func(*Message)
	calls   map[string]int
}

// NewProxy starts a proxy before the node at url, which ends with the test.
func NewProxy(t testing.TB, url string) *Proxy {
	t.Helper()
	p := &Proxy{t: t, node: url, calls: map[string]int{}, closing: make(chan struct{})}
	server := httptest.NewServer(p)
	p.URL = server.URL
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(p.closing) }) // before the server's, which waits for the requests
	return p
}

// Set sets the fault.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// Forward has the requests from now on go to another node.
func (p *Proxy) Forward(url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node = url
}

// Rewrite has change look at every call and change its result; nil ends it. change
// may also do something to the node, between the client's requests.
func (p *Proxy) Rewrite(change func(*Message)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rewrite = change
}

// Calls is how many calls of a method there have been.
func (p *Proxy) Calls(method string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[method]
}

type rpcRequest struct {
	Method string            `json:"method"`
	Params []json.RawMessage `json:"params"`
	ID     json.RawMessage   `json:"id"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

type rpcResponse struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   json.RawMessage `json:"error,omitempty"`
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	var requests []rpcRequest
	if err := json.Unmarshal(body, &requests); err != nil {
		p.t.Errorf("the client sent no batch: %v", err)
		return
	}
	p.mu.Lock()
	for _, q := range requests {
		p.calls[q.Method]++
	}
	node, fault, rewrite := p.node, p.fault, p.rewrite
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if p.refuse(w, r, fault) {
		return
	}
	answers, ok := p.ask(node, body)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	for i := range answers {
		p.change(&answers[i], find(requests, answers[i].ID), fault, rewrite)
	}
	if fault == Short {
		answers = answers[:len(answers)-1]
	}
	out, err := json.Marshal(answers)
	if err != nil {
		p.t.Errorf("marshaling a changed answer: %v", err)
	}
	if fault == Truncated {
		w.Header().Set("Content-Length", strconv.Itoa(len(out)))
		out = out[:len(out)/2]
	}
	_, _ = w.Write(out) // the client may be gone
}

// refuse does what needs no node, and reports whether that was the fault.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, fault Fault) bool {
	switch fault {
	case Slow:
		select {
		case <-r.Context().Done():
		case <-p.closing:
		}
	case Garbled:
		_, _ = io.WriteString(w, "<html><body>It works!</body></html>")
	case Huge:
		_, _ = io.WriteString(w, `[{"jsonrpc":"2.0","id":1,"result":"0x`)
		for junk := bytes.Repeat([]byte("0"), 1<<16); ; {
			if _, err := w.Write(junk); err != nil {
				return true // the client had enough
			}
		}
	case TooManyRequests:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "slow down, project 0123456789abcdef", http.StatusTooManyRequests)
	case LimitExceeded:
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":null,"error":{"code":-32005,"message":"project 0123456789abcdef exceeded its limit"}}`)
	case ServerError:
		http.Error(w, "no backend for project 0123456789abcdef", http.StatusServiceUnavailable)
	case Gone:
		panic(http.ErrAbortHandler)
	default:
		return false
	}
	return true
}

// ask passes the batch on. The node may be gone when a test ends.
func (p *Proxy) ask(node string, body []byte) (answers []rpcResponse, ok bool) {
	resp, err := http.Post(node, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, false
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answers); err != nil {
		p.t.Errorf("the node's answer: %v", err)
		return nil, false
	}
	return answers, true
}

func find(requests []rpcRequest, id json.RawMessage) rpcRequest {
	for _, q := range requests {
		if bytes.Equal(q.ID, id) {
			return q
		}
	}
	return rpcRequest{}
}

// change does what is wrong to one answer.
func (p *Proxy) change(a *rpcResponse, q rpcRequest, fault Fault, rewrite func(*Message)) {
	switch {
	case fault == WrongChain && q.Method == "eth_chainId":
		a.Result = json.RawMessage(wrongChainID)
	case fault == CallsRefused && q.Method != "eth_chainId":
		a.Result = nil
		a.Error, _ = json.Marshal(rpcError{-32005, "project 0123456789abcdef exceeded its limit"})
	}
	if rewrite == nil {
		return
	}
	m := &Message{Method: q.Method, Params: q.Params, Result: a.Result}
	rewrite(m)
	switch a.Result = m.Result; {
	case m.refusal != 0:
		a.Result = nil
		a.Error, _ = json.Marshal(rpcError{m.refusal, "refused for project 0123456789abcdef"})
	case a.Result != nil:
		a.Error = nil
	}
}
