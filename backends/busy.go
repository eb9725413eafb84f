package backends

// Busy marks err, which keeps its text, as [ErrBusy].
func Busy(err error) error { return &marked{err, ErrBusy} }

// marked is err and mark, with the text of err.
type marked struct{ err, mark error }

func (e *marked) Error() string   { return e.err.Error() }
func (e *marked) Unwrap() []error { return []error{e.err, e.mark} }
