package secret

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The advice is about the limit only if the limit is what refuses.
func TestLockAdvice(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &was); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &was); err != nil {
			t.Error(err)
		}
	})
	for _, tt := range []struct {
		limit uint64
		err   error
		want  string
	}{
		{1 << 16, unix.ENOMEM, "LimitMEMLOCK="},
		{1 << 16, unix.EAGAIN, "LimitMEMLOCK="},
		{1 << 16, unix.EPERM, "@memlock"},
		{0, unix.EPERM, "LimitMEMLOCK="},
	} {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: tt.limit, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		if got := lockAdvice(tt.err); !strings.Contains(got, tt.want) {
			t.Errorf("%v with a limit of %d: %s, want %s", tt.err, tt.limit, got, tt.want)
		}
	}
}
