package awskms

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/awskms/kmsfake"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/secret"
)

func take(t *testing.T, b []byte) *secret.Buffer {
	t.Helper()
	s, err := secret.Take(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestOpenRefuses(t *testing.T) {
	fake := newFake(t)
	for name, change := range map[string]func(*Config){
		"days":      func(c *Config) { c.DeletionDays = 6 },
		"days more": func(c *Config) { c.DeletionDays = 31 },
		"in flight": func(c *Config) { c.InFlight = -1 },
		"timeout":   func(c *Config) { c.Timeout = -1 },
		"host":      func(c *Config) { c.Host = "a/b" },
	} {
		cfg := fake.config()
		change(&cfg)
		if b, err := Open(t.Context(), cfg); err == nil {
			b.Close()
			t.Errorf("%s: Open succeeded", name)
		}
	}
	if _, err := OpenSealed(t.Context(), SealedConfig{Config: fake.config(), Dir: t.TempDir()}); err == nil {
		t.Error("OpenSealed without a key succeeded")
	}
	t.Setenv("AWS_REGION", "")
	if _, err := Open(t.Context(), fake.config()); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("Open without a region = %v", err)
	}
}

func TestTagsAndAlias(t *testing.T) {
	fake := newFake(t)
	b := openResident(t, fake.config())
	k := backendtest.Generate(t, b, "keyward-00ff").(*key)
	want := map[string]string{
		"keyward:session": "keyward-00ff", "keyward:account": "0x36615Cf349d7F6344891B1e7CA7C72883F5dc049",
		"keyward:chain": "2741", "keyward:host": "host-1",
	}
	if d := cmp.Diff(want, fake.Tags(k.arn)); d != "" {
		t.Errorf("tags (-want +got):\n%s", d)
	}
	id := k.arn[strings.LastIndex(k.arn, "/")+1:]
	if d := cmp.Diff([]string{"alias/keyward/host-1/keyward-00ff/" + id}, fake.Aliases()); d != "" {
		t.Errorf("aliases (-want +got):\n%s", d)
	}
	if k.URI() != "awskms:"+k.arn {
		t.Errorf("URI = %q", k.URI())
	}
}

func TestDestroyWaits(t *testing.T) {
	fake := newFake(t)
	for _, days := range []int{0, 7, 30} {
		cfg := fake.config()
		cfg.DeletionDays = days
		b := openResident(t, cfg)
		k := backendtest.Generate(t, b, "keyward-x").(*key)
		if err := b.Destroy(t.Context(), k.URI()); err != nil {
			t.Fatal(err)
		}
		if days == 0 {
			days = 30
		}
		if left := time.Until(fake.Deletion(k.arn)); left.Round(time.Hour) != time.Duration(days)*24*time.Hour {
			t.Errorf("the key is deleted in %v, want %d days", left, days)
		}
	}
}

// The list is made of many pages, and has this host's keys only.
func TestListPages(t *testing.T) {
	fake := newFake(t)
	fake.PageSize = 2
	b := openResident(t, fake.config())
	other := fake.config()
	other.Host = "host-10" // which this one's name is a prefix of
	foreign := openResident(t, other)
	want := map[string]string{}
	for i := range 7 {
		k := backendtest.Generate(t, b, fmt.Sprintf("keyward-%d", i))
		want[k.URI()] = fmt.Sprintf("keyward-%d", i)
		backendtest.Generate(t, foreign, fmt.Sprintf("keyward-%d", i))
		fake.NewWrappingKey()
	}
	destroyed := slices.Sorted(maps.Keys(want))[0]
	if err := b.Destroy(t.Context(), destroyed); err != nil {
		t.Fatal(err)
	}
	delete(want, destroyed)
	list, err := b.Keys(t.Context(), "keyward-")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range list {
		got[e.Key.URI()] = e.Label
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
	// Keys that this agent may not look at are not its own.
	fake.Inject("ListResourceTags", -1, kmsfake.Fault{Code: "AccessDeniedException"})
	if list, err := b.Keys(t.Context(), "keyward-"); err != nil || len(list) != len(want) {
		t.Errorf("Keys without kms:ListResourceTags = %d keys, %v, want %d", len(list), err, len(want))
	}
	fake.Inject("ListKeys", -1, kmsfake.Fault{Code: "AccessDeniedException"})
	if _, err := b.Keys(t.Context(), "keyward-"); !errors.Is(err, ErrDenied) {
		t.Errorf("Keys without kms:ListKeys = %v, want ErrDenied: a list that is not whole must not pass for one", err)
	}
}

// Generate that fails half way leaves no key that nobody knows of.
func TestGenerateHalfWay(t *testing.T) {
	denied := kmsfake.Fault{Code: "AccessDeniedException"}
	attrs := backends.KeyAttributes{Label: "keyward-x", ChainID: 1}
	t.Run("undone", func(t *testing.T) {
		for _, step := range []string{"GetPublicKey", "CreateAlias"} {
			fake := newFake(t)
			b := openResident(t, fake.config())
			fake.Inject(step, -1, denied)
			if _, err := b.Generate(t.Context(), attrs); !errors.Is(err, ErrDenied) ||
				!strings.Contains(err.Error(), "kms:"+step) {
				t.Errorf("Generate = %v, want ErrDenied for kms:%s", err, step)
			}
			if ids := fake.KeyIDs(); len(ids) != 1 || fake.State(ids[0]) != kmsfake.PendingDeletion {
				t.Errorf("%s: %d keys, the first one %s, want one pending deletion", step, len(ids), fake.State(ids[0]))
			}
		}
	})
	t.Run("left behind", func(t *testing.T) {
		fake := newFake(t)
		b := openResident(t, fake.config())
		fake.Inject("CreateAlias", -1, denied)
		fake.Inject("ScheduleKeyDeletion", -1, denied)
		_, err := b.Generate(t.Context(), attrs)
		ids := fake.KeyIDs()
		if len(ids) != 1 || err == nil || !strings.Contains(err.Error(), ids[0]) ||
			!strings.Contains(err.Error(), "left behind") {
			t.Errorf("Generate = %v, want it to say that %v is left behind", err, ids)
		}
	})
	t.Run("answer lost", func(t *testing.T) {
		fake := newFake(t)
		b := openResident(t, fake.config())
		fake.Inject("CreateKey", 1, kmsfake.Fault{Cut: true})
		if _, err := b.Generate(t.Context(), attrs); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("Generate = %v, want ErrUnavailable", err)
		}
		if n := fake.Calls("CreateKey"); n != 1 {
			t.Errorf("%d calls of CreateKey, want 1: a second one would make a second key", n)
		}
		list, err := b.Keys(t.Context(), attrs.Label)
		if err != nil || len(list) != 1 || list[0].Label != attrs.Label {
			t.Fatalf("Keys = %v, %v, want the key that was made", list, err)
		}
		if err := b.Destroy(t.Context(), list[0].Key.URI()); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	})
	t.Run("throttled", func(t *testing.T) {
		fake := newFake(t)
		b := openResident(t, fake.config())
		fake.Inject("CreateKey", 2, kmsfake.Fault{Code: "ThrottlingException"})
		backendtest.Verify(t, backendtest.Generate(t, b, "keyward-x"), [32]byte{1})
		if n := len(fake.KeyIDs()); n != 1 {
			t.Errorf("%d keys, want 1", n)
		}
	})
	t.Run("not seen yet", func(t *testing.T) {
		fake := newFake(t)
		fake.HideNewKeys(3)
		backendtest.Verify(t, backendtest.Generate(t, openResident(t, fake.config()), "keyward-x"), [32]byte{1})
	})
	t.Run("caller gives up", func(t *testing.T) {
		fake := newFake(t)
		b := openResident(t, fake.config())
		ctx, cancel := context.WithCancel(t.Context())
		fake.Inject("CreateAlias", 1, kmsfake.Fault{Alter: func(body []byte) []byte { cancel(); time.Sleep(time.Second); return body }})
		if _, err := b.Generate(ctx, attrs); !errors.Is(err, context.Canceled) {
			t.Errorf("Generate = %v, want Canceled", err)
		}
		if ids := fake.KeyIDs(); len(ids) != 1 || fake.State(ids[0]) != kmsfake.PendingDeletion {
			t.Errorf("keys %v are not pending deletion", ids)
		}
	})
}

// Calls in flight are bounded, whoever asks for how many.
func TestInFlightBound(t *testing.T) {
	fake := newFake(t)
	fake.Latency = 20 * time.Millisecond
	cfg := fake.config()
	cfg.InFlight = 4
	b := openResident(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() { backendtest.Verify(t, k, [32]byte{1}) })
	}
	wg.Wait()
	if n := fake.MostInFlight(); n != 4 {
		t.Errorf("%d calls in flight at most, want 4", n)
	}
}

// A caller that waits for a slot leaves when its context is done.
func TestWaitForSlot(t *testing.T) {
	fake := newFake(t)
	cfg := fake.config()
	cfg.InFlight = 1
	k := backendtest.Generate(t, openResident(t, cfg), "keyward-x")
	fake.Inject("Sign", 1, kmsfake.Fault{Delay: time.Hour})
	hung, release := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { k.SignDigest(hung, [32]byte{1}) })
	for fake.Calls("Sign") == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := k.SignDigest(ctx, [32]byte{1}); !errors.Is(err, backends.ErrUnavailable) ||
		!errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("SignDigest = %v, want ErrUnavailable and DeadlineExceeded", err)
	}
	release()
	wg.Wait()
	if n := fake.Calls("Sign"); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
	backendtest.Verify(t, k, [32]byte{1})
}

func TestConnectionsAreKept(t *testing.T) {
	fake := newFake(t)
	var dialled atomic.Int64
	server := httptest.NewUnstartedServer(fake.Server)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			dialled.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	cfg := fake.config()
	cfg.Endpoint = server.URL
	k := backendtest.Generate(t, openResident(t, cfg), "keyward-x")
	for range 50 {
		backendtest.Verify(t, k, [32]byte{1})
	}
	// It is one connection on an idle machine. On a busy one net/http gives some up, when its
	// own goroutines come too late.
	if n := dialled.Load(); n > 25 {
		t.Errorf("%d connections for 53 calls one after another", n)
	}
}

// Asking for the state costs nothing when calls are being made, and one cheap call otherwise.
func TestStatusUsesNoQuota(t *testing.T) {
	fake := newFake(t)
	b := openResident(t, fake.config())
	for range 10 {
		if st := b.Status(t.Context()); st.State != "ready" {
			t.Fatalf("Status = %+v", st)
		}
	}
	if n, all := fake.Calls("ListAliases"), fake.Calls(""); n != 1 || all != 1 {
		t.Errorf("%d calls for 10 times Status, %d of them ListAliases, want one", all, n)
	}
	k := backendtest.Generate(t, b, "keyward-x")
	before := fake.Calls("")
	fake.Inject("Sign", 1, kmsfake.Fault{Code: "AccessDeniedException"})
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); err == nil {
		t.Fatal("SignDigest succeeded")
	}
	if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, "kms:Sign") {
		t.Errorf("Status after a denial = %+v, want unavailable and the permission", st)
	}
	backendtest.Verify(t, k, [32]byte{1})
	if st := b.Status(t.Context()); st.State != "ready" {
		t.Errorf("Status after a success = %+v", st)
	}
	if n := fake.Calls("") - before; n != 2 {
		t.Errorf("%d calls, want the two of signing", n)
	}
}

// The state of a sealed backend is that of the key that seals.
func TestStatusSealed(t *testing.T) {
	fake := newFake(t)
	arn := fake.NewWrappingKey()
	cfg := SealedConfig{Config: fake.config(), Key: arn}
	if st := openSealed(t, cfg).Status(t.Context()); st.State != "ready" || !strings.Contains(st.Detail, arn) {
		t.Errorf("Status = %+v, want ready and the key", st)
	}
	fake.SetState(arn, kmsfake.Disabled)
	b := openSealed(t, cfg)
	for range 2 { // the second answer is from memory
		if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, "can't seal") {
			t.Errorf("Status with a disabled key = %+v", st)
		}
	}
	cfg.Key = backendtest.Generate(t, openResident(t, fake.config()), "keyward-x").(*key).arn
	if st := openSealed(t, cfg).Status(t.Context()); st.State != "unavailable" {
		t.Errorf("Status with a key that signs = %+v", st)
	}
}

// A key and an endpoint of another region.
func TestWrongRegion(t *testing.T) {
	fake := newFake(t)
	b := openResident(t, fake.config())
	k := backendtest.Generate(t, b, "keyward-x")
	elsewhere := strings.Replace(k.URI(), "us-east-1", "eu-central-1", 1)
	before := fake.Calls("")
	for _, err := range []error{second(b.Key(t.Context(), elsewhere)), b.Destroy(t.Context(), elsewhere)} {
		if !errors.Is(err, ErrRegion) || errors.Is(err, backends.ErrKeyNotFound) ||
			!strings.Contains(err.Error(), "eu-central-1") {
			t.Errorf("a key of another region: %v, want ErrRegion", err)
		}
	}
	if n := fake.Calls("") - before; n != 0 {
		t.Errorf("%d calls were made for it", n)
	}
	cfg := fake.config()
	cfg.Region = "eu-central-1"
	_, err := openResident(t, cfg).Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
	if !errors.Is(err, ErrRegion) || !strings.Contains(err.Error(), "set region and endpoint") {
		t.Errorf("an endpoint of another region: %v, want ErrRegion and what to do", err)
	}
}

func second[T any](_ T, err error) error { return err }

// FuzzEscape: labels come back from aliases, and a prefix stays one.
func FuzzEscape(f *testing.F) {
	f.Add("keyward-00ff", "keyward-")
	f.Add("find; 100% ü_", "_")
	f.Fuzz(func(t *testing.T, label, prefix string) {
		escaped := escape(label)
		if got, ok := unescape(escaped); !ok || got != label {
			t.Errorf("unescape(%q) = %q, %v, want %q", escaped, got, ok, label)
		}
		if strings.HasPrefix(label, prefix) != strings.HasPrefix(escaped, escape(prefix)) {
			t.Errorf("prefix %q of %q, but %q of %q", prefix, label, escape(prefix), escaped)
		}
		if got, ok := unescape(label); ok && escape(got) != label {
			t.Errorf("unescape(%q) = %q, which is escaped as %q", label, got, escape(got))
		}
	})
}
