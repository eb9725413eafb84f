package session

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/policy"
)

// A value of the store is read to its end, or is an error; what is read is what is written then and read again.
func FuzzStored(f *testing.F) {
	sess := &Session{ID: "0123456789abcdef", Kind: AGW, Spec: &policy.Spec{},
		Clients: []Client{{ID: 7}, {Group: true, ID: 8}}, CreatedAt: time.Unix(1e9, 0).UTC()}
	f.Add(uint8(0), sess.append(nil))
	view := &settled{Block: chain.Block{Number: 7, Time: 9}, Nonce: 2,
		Used: amounts{{Kind: policy.FeeTracker}: policy.Decimal(*uint256.NewInt(55))}}
	f.Add(uint8(1), view.append(nil))
	f.Add(uint8(2), appendCosts(nil, costs{}))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		read := func(data []byte) (value any, again []byte, ok bool) {
			d := decoder{b: data}
			switch kind % 3 {
			case 0:
				s := d.session(map[string]string{}, false)
				value, again = s, s.append(nil)
			case 1:
				s := d.settled()
				value, again = s, s.append(nil)
			case 2:
				c := d.costs()
				value, again = c, appendCosts(nil, c)
			}
			return value, again, d.end("a value") == nil
		}
		value, again, ok := read(data)
		if !ok {
			return
		}
		same, _, ok := read(again)
		if diff := cmp.Diff(value, same, cmp.AllowUnexported(Session{}, settled{}, pastNonce{})); !ok || diff != "" {
			t.Errorf("%x is read as another value when it is written again (-first +second):\n%s", data, diff)
		}
	})
}

// A client has one text form.
func FuzzParseClient(f *testing.F) {
	for _, s := range []string{"uid:0", "gid:1000", "uid:4294967295", "uid:01", "uid", "user:1", "uid:-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := readClient(s); err == nil && c.String() != s {
			t.Errorf("readClient(%q) = %v", s, c)
		}
		if c, err := ParseClient(s); err == nil && c.nobody() != nil {
			t.Errorf("ParseClient(%q) = %v, which is nobody", s, c)
		}
	})
}

// A map of ids is read, or is an error.
func FuzzIDMap(f *testing.F) {
	f.Add([]byte("         0          0 4294967295\n"))
	f.Add([]byte("0 1000 1\n1 100000 65536\n"))
	f.Add([]byte("0 1000\n"))
	path := filepath.Join(f.TempDir(), "uid_map")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := readIDMap(path)
		if err == nil && len(m) > len(data) {
			t.Errorf("readIDMap(%q) has %d ranges", data, len(m))
		}
	})
}
