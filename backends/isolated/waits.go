package isolated

import "sync"

// waits is what the child's device waits for, and who is told. Its zero value is ready.
type waits struct {
	mu    sync.Mutex // also held while they are told, so that each hears it in order
	what  string     // that a person has to do; "": nothing
	calls map[*func(what string)]struct{}
}

// is what a person has to do now.
func (w *waits) is() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.what
}

// set tells all calls under way what a person has to do, and reports whether that is news.
func (w *waits) set(what string) (news bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.what == what {
		return false
	}
	w.what = what
	for tell := range w.calls {
		(*tell)(what)
	}
	return true
}

// follow has tell, which may be nil, told until stop. That says what is still waited for, which
// is then no matter of tell's any more.
func (w *waits) follow(tell func(what string)) (stop func() string) {
	if tell == nil {
		return w.is
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls == nil {
		w.calls = map[*func(string)]struct{}{}
	}
	w.calls[&tell] = struct{}{}
	if w.what != "" {
		tell(w.what)
	}
	return func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.calls, &tell)
		if w.what != "" {
			tell("")
		}
		return w.what
	}
}
