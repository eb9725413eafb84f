package softhsmtest

import (
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/keyward/keyward/socket/api"
)

// failure is one class of error of a backend, and what it has to do to a limit.
type failure struct {
	name    string
	fault   func() // from now on, requests fail; it may start the agent again
	heal    func() // no more; nil: the fault ends by itself
	certain bool   // no signature can exist: the limit is as before
}

// charges meets each failure with a request of its own. A request that certainly was not signed uses up nothing of the
// limit; one in doubt stays charged, once, also when it is signed later.
func (a *Agent) charges(t *testing.T, sess *api.Session, failures []failure) {
	t.Helper()
	reverted := 0
	sign := func(nonce uint64) error {
		_, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, nonce))
		return err
	}
	used := func() int { return used(t, a.Client(), sess) }
	for i, f := range failures {
		nonce, before := uint64(i), used()
		f.fault()
		err := sign(nonce)
		if err == nil || code(err) == api.CodeDenied {
			t.Errorf("%s: %v, want a failure of the device", f.name, err)
		}
		want := before
		if !f.certain {
			want++
		} else if f.name != "no token" { // found before it was charged
			reverted++
		}
		if got := used(); got != want {
			t.Errorf("%s: %d of the limit is used, want %d: %v", f.name, got, want, err)
		}
		if f.heal != nil {
			f.heal()
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if err = sign(nonce); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: healed, and a minute later: %v\n%s", f.name, err, a.log)
			}
		}
		if got := used(); got != before+1 {
			t.Errorf("%s: signed later, %d of the limit is used, want %d", f.name, got, before+1)
		}
	}
	a.Keyward("audit", "verify")
	n := 0
	for _, rec := range a.trail() {
		if rec.Event == "sign.reverted" {
			n++
		}
	}
	if n < reverted {
		t.Errorf("the trail has %d charges that were taken back, want %d", n, reverted)
	}
}

// TestChargesOfAModule: a PKCS#11 module, in the agent and in a process of its own. All is certain before C_Sign, and
// nothing after.
func TestChargesOfAModule(t *testing.T) {
	for _, process := range []string{"agent", "own"} {
		t.Run(process, func(t *testing.T) {
			a := NewAgent(t)
			a.Stop()
			faults := a.addFaulty(`timeout = "2s"`, `process = "`+process+`"`)
			a.Start()
			a.charges(t, a.activeSessionOn("faulty", transferSpec(100)), moduleFailures(a, faults, process))
		})
	}
}

func moduleFailures(a *Agent, faults *Faults, process string) []failure {
	const always = 1 << 40
	set := func(function string, kind FaultKind, rv, times uint64) func() {
		return func() { faults.On(function).Set(kind, rv, times) }
	}
	clear := func() {
		for _, f := range []string{"SignInit", "Sign", "Initialize", "OpenSession", "Login"} {
			faults.On(f).Set(Return, 0, 0)
		}
	}
	both := func(first, second func()) func() { return func() { first(); second() } }
	failures := []failure{
		{"C_SignInit refuses", set("SignInit", Return, p11.CKR_KEY_FUNCTION_NOT_PERMITTED, always), clear, true},
		{"C_SignInit: device error", set("SignInit", Return, p11.CKR_DEVICE_ERROR, always), clear, true},
		{"C_SignInit: a vendor's error", set("SignInit", Return, p11.CKR_VENDOR_DEFINED+1, always), clear, true},
		{"no connection", both(set("SignInit", Return, p11.CKR_DEVICE_REMOVED, 1),
			set("Initialize", Return, p11.CKR_DEVICE_ERROR, always)), clear, true},
		{"no token", both(set("SignInit", Return, p11.CKR_TOKEN_NOT_PRESENT, 1),
			set("OpenSession", Return, p11.CKR_TOKEN_NOT_PRESENT, always)), clear, true},
		{"C_Sign refuses", set("Sign", Return, p11.CKR_FUNCTION_REJECTED, always), clear, false},
		{"C_Sign: bad arguments", set("Sign", Return, p11.CKR_DATA_LEN_RANGE, always), clear, false},
		{"C_Sign: not logged in", set("Sign", Return, p11.CKR_USER_NOT_LOGGED_IN, always), clear, false},
		{"C_Sign: device error", set("Sign", Return, p11.CKR_DEVICE_ERROR, always), clear, false},
		{"C_Sign: the answer is lost", set("Sign", Lose, p11.CKR_DEVICE_ERROR, always), clear, false},
		{"C_Sign, then no connection", both(set("Sign", Return, p11.CKR_DEVICE_REMOVED, 1),
			set("Initialize", Return, p11.CKR_DEVICE_ERROR, always)), clear, false},
		{"a flipped bit", func() { faults.SignFlip.Store(1) }, func() { faults.SignFlip.Store(0) }, false},
		{"C_Sign hangs", func() { faults.Release.Store(0); faults.On("Sign").Set(Hang, 0, 1) },
			func() { faults.Release.Store(1) }, false},
	}
	if process == "agent" {
		failures = append(failures, failure{"C_SignInit hangs",
			func() { faults.Release.Store(0); faults.On("SignInit").Set(Hang, 0, 1) },
			func() { faults.Release.Store(1) }, true})
	} else {
		failures = append(failures,
			failure{"the process crashes in C_SignInit", set("SignInit", Abort, 0, 1), nil, false},
			failure{"the process crashes in C_Sign", set("Sign", SegFault, 0, 1), nil, false},
			failure{"no process starts", both(set("Initialize", Abort, 0, always), a.killChildren), clear, true})
	}
	return append(failures, failure{"no login", both(set("SignInit", Return, p11.CKR_USER_NOT_LOGGED_IN, 1),
		set("Login", Return, p11.CKR_GENERAL_ERROR, always)),
		func() { clear(); a.Keyward("unlock", "--backend", "faulty") }, true})
}

// killChildren ends the processes of the devices, and waits until the agent knows.
func (a *Agent) killChildren() {
	a.t.Helper()
	killed := a.children()
	for _, child := range killed {
		pid, err := strconv.Atoi(child)
		a.must(err)
		a.must(syscall.Kill(pid, syscall.SIGKILL))
	}
	await(a.t.(*testing.T), "the agent to see that its processes have ended", func() bool {
		return !slices.ContainsFunc(a.children(), func(pid string) bool { return slices.Contains(killed, pid) })
	})
}
