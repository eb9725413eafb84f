package chain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// transport reads an answer whole, and bounded, before anyone decodes it: what is too
// long, cut short, or not one JSON document never reaches go-ethereum's decoder, which would
// take the first document and ignore the rest.
type transport struct {
	next http.RoundTripper
	max  int64
}

func newTransport(max int64) *transport {
	next := http.DefaultTransport.(*http.Transport).Clone()
	next.MaxResponseHeaderBytes = 64 << 10
	return &transport{next: next, max: max}
}

// statusError is an HTTP status other than 2xx. The body is not shown.
type statusError struct {
	code       int
	retryAfter time.Duration // what the server asks for; 0 if nothing
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP status %d", e.code) }

func (e *statusError) Is(target error) bool { return target == ErrUnavailable }

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, &statusError{code: resp.StatusCode, retryAfter: retryAfter(resp.Header)}
	}
	body, err := t.read(resp)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// read returns the body, which is one JSON array. A batch as a whole may be refused with a single
// object (JSON-RPC 2.0, section 6), which is a *nodeError.
func (t *transport) read(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, t.max+1))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: it is cut short", ErrGarbled)
	case err != nil:
		return nil, err
	case int64(len(body)) > t.max:
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrGarbled, t.max)
	case !json.Valid(body):
		return nil, fmt.Errorf("%w: it is not JSON", ErrGarbled)
	}
	var whole struct {
		Error *struct {
			Code *int `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &whole) == nil && whole.Error != nil && whole.Error.Code != nil {
		return nil, &nodeError{code: *whole.Error.Code}
	}
	return body, nil
}

// CloseIdleConnections lets [http.Client.CloseIdleConnections] through.
func (t *transport) CloseIdleConnections() { t.next.(*http.Transport).CloseIdleConnections() }

// retryAfter reads the header's form in seconds (RFC 9110, section 10.2.3).
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
