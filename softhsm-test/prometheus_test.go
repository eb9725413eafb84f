package softhsmtest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/syncbuf"
)

// prometheus is Debian's Prometheus that scrapes one agent.
type prometheus struct {
	t   *testing.T
	url string
}

// freeAddress is an address of the loopback interface that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startPrometheus starts one with the rules that are shipped, their times shortened, and has it scrape target. It needs
// Debian's package prometheus.
func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	rules, err := os.ReadFile("../deploy/prometheus/keyward.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`for: \d+m`).ReplaceAllString(string(rules), "for: 1s")
	text = strings.ReplaceAll(text, "[5m]", "[15s]")
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\n"+
		"scrape_configs: [{job_name: keyward, static_configs: [{targets: [%q]}]}]\n", target)
	for name, data := range map[string]string{"rules.yml": text, "prometheus.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := &prometheus{t, "http://" + freeAddress(t)}
	log := &syncbuf.Buffer{}
	cmd := exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+
		filepath.Join(dir, "data"),
		"--web.listen-address="+strings.TrimPrefix(p.url, "http://"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // reports the signal
		if t.Failed() {
			t.Logf("prometheus:\n%s", log)
		}
	})
	return p
}

// get asks Prometheus's API; false: it has no answer yet.
func (p *prometheus) get(path string, query url.Values, data any) bool {
	resp, err := http.Get(p.url + path + "?" + query.Encode())
	if err != nil {
		return false // it is starting
	}
	defer resp.Body.Close()
	answer := struct {
		Status string
		Error  string
		Data   any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return false
	}
	if answer.Status != "success" {
		p.t.Fatalf("%s %v: %s", path, query, answer.Error)
	}
	return true
}

// has reports whether a query has data.
func (p *prometheus) has(query string) bool {
	var data struct{ Result []json.RawMessage }
	return p.get("/api/v1/query", url.Values{"query": {query}}, &data) && len(data.Result) > 0
}

// alerts are the names of the alerts that fire.
func (p *prometheus) alerts() (names []string) {
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	p.get("/api/v1/alerts", nil, &data)
	for _, a := range data.Alerts {
		if a.State == "firing" {
			names = append(names, a.Labels["alertname"])
		}
	}
	return names
}

// panels are the queries of the dashboard, by panel.
func panels(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile("../deploy/grafana/keyward.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			all[p.Title] = append(all[p.Title], strings.NewReplacer("$__rate_interval", "15s", "$instance",
				".*").Replace(target.Expr))
		}
	}
	return all
}

// Each query of the dashboard has data, of an agent that signs, refuses, and can't read its chain. Prometheus scrapes
// the Unix socket by way of a proxy, as that has the series of single sessions.
func TestDashboard(t *testing.T) {
	a := NewPlainAgent(t, t.TempDir())
	a.Stop()
	a.configureIn("metrics", "listen = \"metrics.sock\"")
	a.appendConfig("[chains.other]\nid = 77\nrpc = [\"http://127.0.0.1:1\"]\nrpc_attempts = 1\n")
	a.Start()
	sess := a.ActiveSession(transferSpec(100000), userAccount)
	p := startPrometheus(t, proxyOf(t, filepath.Join(a.Dir, "metrics.sock")))
	c := a.Client()
	nonce := uint64(0)
	load := func() {
		for range 5 {
			if _, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce)); err != nil {
				t.Fatal(err)
			}
			nonce++
		}
		refused := transferTx(sess.ID, nonce)
		refused["value"] = "2"
		if _, err := c.SignTransaction(t.Context(), refused); err == nil {
			t.Fatal("a transfer of too much is signed")
		}
	}
	missing := panels(t)
	if len(missing) < 20 {
		t.Fatalf("the dashboard has only %d panels with queries", len(missing))
	}
	for deadline := time.Now().Add(2 * time.Minute); len(missing) > 0; time.Sleep(500 * time.Millisecond) {
		load()
		for title, queries := range missing {
			has := true
			for _, query := range queries {
				has = has && p.has(query)
			}
			if has {
				delete(missing, title)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no data for %q", missing)
		}
	}
}

// proxyOf has a loopback address lead to a Unix socket.
func proxyOf(t *testing.T, socket string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "agent"})
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = dialerTo(socket)
	proxy.Transport = transport
	server := &http.Server{Handler: proxy}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// The rules that are shipped are correct.
func TestRules(t *testing.T) {
	if out, err := exec.Command("promtool", "check", "rules",
		"../deploy/prometheus/keyward.rules.yml").CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
