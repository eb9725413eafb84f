package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"
	"golang.org/x/time/rate"
)

// maxBatch is how many calls go in one JSON-RPC batch, with the chain id's; nodes
// refuse batches of more than 100 or so.
const maxBatch = 50

// An endpoint is one URL of a chain.
type endpoint struct {
	cfg     *Config
	name    string // its position and host: the rest of the URL may hold credentials
	rpc     *rpc.Client
	http    *http.Client
	limiter *rate.Limiter
	health  health
}

func newEndpoint(cfg *Config, position int, text string) (*endpoint, error) {
	// url.Parse quotes the URL in its errors, so they are not shown.
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" {
		return nil, fmt.Errorf("endpoint %d is no http or https URL", position)
	}
	e := &endpoint{
		cfg:     cfg,
		name:    fmt.Sprintf("endpoint %d (%s)", position, u.Host),
		limiter: rate.NewLimiter(rate.Limit(cfg.Rate), max(maxBatch, int(cfg.Rate))),
	}
	e.http = &http.Client{
		Transport: newTransport(cfg.MaxResponse),
		// A redirect would carry the request, and what is secret in its URL, elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if e.rpc, err = rpc.DialOptions(context.Background(), text, rpc.WithHTTPClient(e.http)); err != nil {
		return nil, fmt.Errorf("endpoint %d can't be used", position)
	}
	return e, nil
}

func (e *endpoint) close() {
	e.rpc.Close()
	e.http.CloseIdleConnections()
}

// A request is one JSON-RPC call and what came of it.
type request struct {
	method string
	args   []any
	result json.RawMessage // set if err is nil; may be null
	err    error           // the node's own refusal, a *nodeError
}

// nodeError is a JSON-RPC error. The node's message is not shown: providers put
// account names and keys into it.
type nodeError struct{ code int }

func (e *nodeError) Error() string {
	return fmt.Sprintf("the node answers with JSON-RPC error %d", e.code)
}

// Is makes a refusal that no caller expects one that may pass: a node says "header not
// found" and "too many requests" this way.
func (e *nodeError) Is(target error) bool { return target == ErrUnavailable }

// revertCode is what nodes answer with to an eth_call that reverts (geth:
// internal/ethapi/errors.go); ZKsync's and Foundry's do too.
const revertCode = 3

// send sends the requests, in batches which each ask for the chain id. When it returns nil
// each request has a result or a refusal.
func (e *endpoint) send(ctx context.Context, requests ...*request) error {
	for len(requests) > 0 {
		n := min(len(requests), maxBatch-1)
		if err := e.sendBatch(ctx, requests[:n]); err != nil {
			return err
		}
		requests = requests[n:]
	}
	return nil
}

func (e *endpoint) sendBatch(ctx context.Context, requests []*request) error {
	batch := make([]rpc.BatchElem, 1, 1+len(requests))
	var id json.RawMessage
	batch[0] = rpc.BatchElem{Method: "eth_chainId", Result: &id}
	for _, r := range requests {
		batch = append(batch, rpc.BatchElem{Method: r.method, Args: r.args, Result: &r.result})
	}
	bounded, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	if err := e.limiter.WaitN(bounded, len(batch)); err != nil {
		return fmt.Errorf("%w: no turn within the rate limit", ErrUnavailable)
	}
	if err := e.rpc.BatchCallContext(bounded, batch); err != nil {
		return e.transportError(ctx, err)
	}
	// Before anything else of the batch is looked at.
	if err := e.checkChain(batch[0].Error, id); err != nil {
		return err
	}
	for i, r := range requests {
		if err := elementError(batch[i+1].Error); err != nil {
			var refusal *nodeError
			if !errors.As(err, &refusal) {
				return fmt.Errorf("%s: %w", r.method, err)
			}
			r.err = refusal
		}
	}
	return nil
}

// checkChain wants the answer to eth_chainId to be the configured chain's.
func (e *endpoint) checkChain(answer error, id json.RawMessage) error {
	if err := elementError(answer); err != nil {
		return fmt.Errorf("eth_chainId: %w", err)
	}
	var got hexutil.Uint64
	if err := decodeResult(id, &got); err != nil {
		return fmt.Errorf("eth_chainId: %w", err)
	}
	if uint64(got) != e.cfg.ID {
		return fmt.Errorf("%w: its chain id is %d, want %d", ErrWrongChain, got, e.cfg.ID)
	}
	return nil
}

// elementError makes of one answer's error a *nodeError, or an [ErrGarbled].
func elementError(err error) error {
	var refusal rpc.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		return &nodeError{code: refusal.ErrorCode()}
	default:
		return fmt.Errorf("%w: an answer of the batch is missing or no result", ErrGarbled)
	}
}

// decodeResult reads a result that may not be null.
func decodeResult(result json.RawMessage, into any) error {
	if len(result) == 0 || string(result) == "null" {
		return fmt.Errorf("%w: null", ErrGarbled)
	}
	if err := json.Unmarshal(result, into); err != nil {
		return fmt.Errorf("%w: the result is not of the type asked for", ErrGarbled)
	}
	return nil
}

// transportError says why a batch had no usable answer. ctx is the caller's, without
// the request's own time-out. The URL, which [url.Error] would show, is left out.
func (e *endpoint) transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var status *statusError
	var refusal *nodeError
	var inURL *url.Error
	switch {
	case errors.As(err, &status):
		return status
	case errors.As(err, &refusal):
		return refusal
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: no answer within %v", ErrUnavailable, e.cfg.Timeout)
	case errors.As(err, &inURL) && errors.Is(err, ErrGarbled):
		return inURL.Err
	case errors.As(err, &inURL):
		return fmt.Errorf("%w: %w", ErrUnavailable, inURL.Err)
	}
	// What is left comes from decoding: the body is JSON but no batch of answers.
	return fmt.Errorf("%w: no batch of JSON-RPC answers", ErrGarbled)
}

// health is how an endpoint has been doing. Its methods may be called concurrently.
type health struct {
	mu       sync.Mutex
	failures int       // in a row
	until    time.Time // avoided until then, if there is another endpoint
	err      error     // the last failure; nil since the last success
}

// How long an endpoint is avoided after a failure, doubled with each in a row.
const (
	firstPause = time.Second
	maxPause   = time.Minute
)

// succeeded reports whether this ends a row of failures.
func (h *health) succeeded() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	recovered := h.failures > 0
	h.failures, h.until, h.err = 0, time.Time{}, nil
	return recovered
}

// failed reports whether this is the first failure in a row.
func (h *health) failed(err error, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures++
	pause := min(firstPause<<min(h.failures-1, 10), maxPause)
	var status *statusError
	if errors.As(err, &status) {
		pause = max(pause, min(status.retryAfter, maxPause))
	}
	h.until, h.err = now.Add(pause), err
	return h.failures == 1
}

func (h *health) state() (until time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until, h.err
}
