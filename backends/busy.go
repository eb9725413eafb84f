package backends

// Busy marks err, which keeps its text, as [ErrBusy].
func Busy(err error) error { return &busy{err} }

type busy struct{ err error }

func (e *busy) Error() string   { return e.err.Error() }
func (e *busy) Unwrap() []error { return []error{e.err, ErrBusy} }
