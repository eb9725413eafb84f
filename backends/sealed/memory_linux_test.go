package sealed

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"golang.org/x/sys/unix"
)

// After keys were made and used, no copy of one is anywhere in the process: not in the Go heap, not
// on a stack, not in C's memory. With a cache there is one copy, in a page
// that is locked and that no core dump has.
func TestNoKeyInMemory(t *testing.T) {
	for name, cacheFor := range map[string]time.Duration{"uncached": 0, "cached": time.Hour} {
		t.Run(name, func(t *testing.T) {
			b := open(t, Config{Wrapper: newDevice(t, "d"), CacheFor: cacheFor})
			k := backendtest.Generate(t, b, "keyward-x")
			needle := maskedScalar(t, b, k)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for i := range 50 {
						if _, err := k.SignDigest(t.Context(), [32]byte{byte(i)}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			found := needle.search(t)
			if cacheFor == 0 && len(found) != 0 {
				t.Errorf("the key is in memory: %q", found)
			}
			if cacheFor != 0 && (len(found) != 1 || !strings.Contains(found[0], " lo ") || !strings.Contains(found[0], " dd ")) {
				t.Errorf("the key is in memory: %q; want it once, in a mapping with the flags lo and dd", found)
			}
			if cacheFor != 0 {
				b.Forget()
				if found := needle.search(t); len(found) != 0 {
					t.Errorf("after Forget the key is in memory: %q", found)
				}
			}
			needle.checkSearch(t)
		})
	}
}

// needle is a private key that is masked, so that it is not what it looks for.
type needle [32]byte

const mask = 0xa5

func maskedScalar(t *testing.T, b *Backend, k backends.Key) (n needle) {
	t.Helper()
	f, err := b.read(k.(*key).signer)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := b.unseal(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	defer scalar.Close()
	scalar.Use(func(d []byte) error {
		for i := range d {
			n[i] = d[i] ^ mask
		}
		return nil
	})
	return n
}

// checkSearch puts the key into the heap, where the search has to find it.
func (n needle) checkSearch(t *testing.T) {
	t.Helper()
	for _, reversed := range []bool{false, true} {
		leak := n.unmask(reversed)
		if found := n.search(t); len(found) == 0 {
			t.Errorf("the search does not find a key in the heap (reversed: %v)", reversed)
		}
		clear(leak)
		runtime.KeepAlive(leak)
	}
}

// unmask gives the key, in the order of libsecp256k1's limbs if reversed.
func (n needle) unmask(reversed bool) []byte {
	out := make([]byte, len(n))
	for i := range n {
		out[i] = n[i] ^ mask
	}
	if reversed {
		slices.Reverse(out)
	}
	return out
}

// search finds the mappings that have half of the key or more, in either byte order:
// big-endian as it is stored, little-endian as libsecp256k1 computes with it.
func (n needle) search(t *testing.T) (found []string) {
	t.Helper()
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	// Memory of its own to read into, so that what was read is not found again.
	const chunk = 1 << 20
	buf, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(buf)
	maps := mappings(t)
	if len(maps) < 10 {
		t.Fatalf("only %d mappings", len(maps))
	}
	for _, m := range maps {
		clear(buf)
		for _, span := range present(t, m) {
			for at := span[0]; at < span[1]; at += chunk - 32 {
				size := min(chunk, span[1]-at)
				read, err := mem.ReadAt(buf[:size], int64(at))
				if err != nil && !errors.Is(err, io.EOF) && read == 0 {
					break // unreadable, or gone
				}
				for range n.count(buf[:read]) {
					found = append(found, fmt.Sprintf("%s %s", m.line, m.flags))
				}
			}
		}
	}
	return found
}

// count counts both halves of the key in both orders, a whole key once.
func (n needle) count(haystack []byte) (count int) {
	for i := 0; i+16 <= len(haystack); i++ {
		c := haystack[i] ^ mask
		if c != n[0] && c != n[31] && c != n[16] && c != n[15] {
			continue
		}
		w := haystack[i:]
		if n.at(w, 0, 16, 1) || n.at(w, 31, 16, -1) { // the first half that comes
			count++
		} else if n.at(w, 16, 16, 1) || n.at(w, 15, 16, -1) {
			if whole := i >= 16 && (n.at(haystack[i-16:], 0, 16, 1) || n.at(haystack[i-16:], 31, 16, -1)); !whole {
				count++
			}
		}
	}
	return count
}

// at reports whether w starts with size bytes of the key, from start in steps of step.
func (n needle) at(w []byte, start, size, step int) bool {
	for i := range size {
		if w[i]^mask != n[start+i*step] {
			return false
		}
	}
	return true
}

type mapping struct {
	lo, hi      uintptr
	line, flags string
}

// mappings are the readable mappings that have pages in memory.
func mappings(t *testing.T) (all []mapping) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	var m mapping
	rss := 0
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		var lo, hi uintptr
		var perms string
		if n, _ := fmt.Sscanf(sc.Text(), "%x-%x %s ", &lo, &hi, &perms); n == 3 {
			m = mapping{lo: lo, hi: hi, line: sc.Text()}
		}
		fmt.Sscanf(sc.Text(), "Rss: %d kB", &rss)
		if flags, ok := strings.CutPrefix(sc.Text(), "VmFlags:"); ok && rss > 0 && strings.Contains(m.line, " r") {
			m.flags = flags + " "
			all = append(all, m)
		}
	}
	return all
}

// present are the spans of m that are in memory or swapped out: of the race detector's
// terabytes, few are. See proc_pid_pagemap(5).
func present(t *testing.T, m mapping) (spans [][2]uintptr) {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := uintptr(os.Getpagesize())
	entries := make([]byte, 8<<16)
	for at := m.lo; at < m.hi; {
		count := min((m.hi-at)/page, uintptr(len(entries)/8))
		n, err := f.ReadAt(entries[:8*count], int64(at/page*8))
		if err != nil || n < 8 {
			t.Fatalf("reading pagemap of %s: %d bytes, %v", m.line, n, err)
		}
		for e := entries[:n/8*8]; len(e) > 0; e = e[8:] {
			if binary.LittleEndian.Uint64(e)>>62 != 0 {
				if last := len(spans) - 1; last >= 0 && spans[last][1] == at {
					spans[last][1] += page
				} else {
					spans = append(spans, [2]uintptr{at, at + page})
				}
			}
			at += page
		}
	}
	return spans
}
