package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

const output = `goos: linux
cpu: Some Processor
BenchmarkSoft/conns=1-2         	       4	     80863 B/sig	       664.2 sig/s
BenchmarkSoft/conns=64-2        	       4	     41956 B/sig	      4846 sig/s
BenchmarkSoft/conns=64-2        	       4	     41000 B/sig	      5000 sig/s
BenchmarkSoft/conns=64-2        	       4	     49000 B/sig	         3.125 sig/s
BenchmarkStores/store=a/callers=8-2 	  10	  1.5 ratio
BenchmarkPlain 	     100	     12.34 ns/op
PASS
`

func TestMarkdown(t *testing.T) {
	res, err := parse(strings.NewReader(output))
	if err != nil {
		t.Fatal(err)
	}
	want := `
Measured 2026-11-28 10:00 UTC at commit abc on Some Processor, ` + strconv.Itoa(runtime.NumCPU()) + ` processors. The load average before was 0.10.

**Soft**

| | B/sig | sig/s |
|---|---:|---:|
| conns=1 | 80863 | 664 |
| conns=64 | 41956 | 4846 |

**Stores**

| | ratio |
|---|---:|
| store=a, callers=8 | 1.50 |

**Plain**

| | ns/op |
|---|---:|
|  | 12.3 |

`
	if got := string(res.markdown("abc", "0.10", time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC))); got != want {
		t.Errorf("markdown = %s\nwant %s", got, want)
	}
}

func TestRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":   "PASS\n",
		"a failure": output + "--- FAIL: BenchmarkX\n",
		"no number": "BenchmarkX-2 1 many sig/s\n",
	} {
		if _, err := parse(strings.NewReader(in)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDocument(t *testing.T) {
	dir := t.TempDir()
	in, doc := filepath.Join(dir, "in"), filepath.Join(dir, "doc.md")
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stdin := func() {
		f, err := os.Open(in)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		os.Stdin = f
	}
	old := os.Stdin
	defer func() { os.Stdin = old }()
	write(in, output)
	write(doc, "before\n"+begin+"old\n"+end+"after\n")
	stdin()
	if err := run(doc, "abc", "0.10", time.Now()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(doc)
	if text := string(got); err != nil || strings.Contains(text, "old") ||
		!strings.HasPrefix(text, "before\n"+begin+"\nMeasured") ||
		!strings.HasSuffix(text, "\n\n"+end+"after\n") {
		t.Errorf("the document is %s (%v)", got, err)
	}
	write(doc, "no lines")
	stdin()
	if err := run(doc, "abc", "0.10", time.Now()); err == nil {
		t.Error("a document without the lines is no error")
	}
}
