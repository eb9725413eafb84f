package pkcs11

import (
	"errors"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
	p11 "github.com/miekg/pkcs11"
)

// health is how the token answers, by kind of operation. Devices fail with codes that no list has, and many of them
// end only with a new connection. So an error that repeats leads to one, spaced by a delay that doubles from
// minReplaceDelay to maxReplaceDelay until an operation of that kind succeeds. Its zero value is ready.
type health struct {
	mu      sync.Mutex
	kinds   map[string]*answers
	delay   time.Duration // of the next replacement after the last
	nextAt  time.Time     // no replacement before
	blameOn string        // the kind of operation that the last replacement was for
}

// answers are those of one kind of operation.
type answers struct {
	failed int       // in a row
	last   error     // of them
	good   time.Time // when one succeeded last
}

const (
	minReplaceDelay = time.Second
	maxReplaceDelay = 10 * time.Second
	throttledFor    = 2 * time.Second // after a success, CKR_FUNCTION_FAILED means too many requests
)

// take notes an operation's outcome, and reports whether the connection is to be replaced.
func (h *health) take(kind string, err error) (replace bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kinds == nil {
		h.kinds = map[string]*answers{}
	}
	a := h.kinds[kind]
	if a == nil {
		a = &answers{}
		h.kinds[kind] = a
	}
	if err == nil {
		a.failed, a.last, a.good = 0, nil, time.Now()
		if h.blameOn == kind {
			h.delay, h.blameOn = 0, ""
		}
		return false
	}
	var rv p11.Error
	if !errors.As(err, &rv) {
		return false
	}
	a.failed, a.last = a.failed+1, err
	if a.failed < 2 || isLost(err) || time.Now().Before(h.nextAt) {
		return false
	}
	h.delay = min(max(2*h.delay, minReplaceDelay), maxReplaceDelay)
	h.nextAt, h.blameOn = time.Now().Add(h.delay), kind
	return true
}

// failing is the error that the last operation of a kind ended with; nil: it succeeded, or there was none.
func (h *health) failing(kind string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.kinds[kind]; a != nil {
		return a.last
	}
	return nil
}

// throttled reports whether err, of an operation of that kind, says that the device has too many requests: AWS CloudHSM
// says so with CKR_FUNCTION_FAILED, and goes on with others.
func (h *health) throttled(kind string, err error) bool {
	if !errors.Is(err, p11.Error(p11.CKR_FUNCTION_FAILED)) || errors.Is(err, backends.ErrUnavailable) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.kinds[kind]
	return a != nil && time.Since(a.good) < throttledFor
}
