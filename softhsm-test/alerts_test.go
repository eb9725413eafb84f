package softhsmtest

import (
	"context"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// make watch-test has all of them fire.
var alertsToFire = flag.String("alerts", "KeywardDown,KeywardLocked,KeywardLimitRunsOut",
	"names of the alerts that TestAlerts has fire, or all")

func dialerTo(socket string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
}

// appendConfig adds sections to the configuration. The agent is stopped.
func (a *Agent) appendConfig(text string) {
	a.t.Helper()
	f, err := os.OpenFile(filepath.Join(a.Dir, "config.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("\n" + text)
		f.Close()
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// watchedAgent is an agent whose metrics are on loopback. change is called while it is stopped.
func watchedAgent(t *testing.T, dir string, change func(*Agent)) (*Agent, *prometheus) {
	t.Helper()
	a := NewPlainAgent(t, dir)
	a.Stop()
	address := freeAddress(t)
	a.configureIn("metrics", fmt.Sprintf("listen = %q", address))
	if change != nil {
		change(a)
	}
	a.Start()
	return a, startPrometheus(t, address)
}

// watchedChainAgent is an agent that watches a node, and whose metrics are on loopback.
func watchedChainAgent(t *testing.T) (*chainAgent, *prometheus) {
	t.Helper()
	a := newChainAgent(t)
	a.Stop()
	address := freeAddress(t)
	a.configureIn("metrics", fmt.Sprintf("listen = %q", address))
	a.Start()
	return a, startPrometheus(t, address)
}

// activeOnChain makes a session that its owner approves.
func (a *chainAgent) activeOnChain() *api.Session {
	a.t.Helper()
	sess := a.create(transferSpec(10))
	a.node.CreateSession(a.account, sess.Session)
	a.waitStatus(sess.ID, "active")
	return sess
}

// provocations bring the fault about that an alert is for, on a running agent.
var provocations = map[string]func(t *testing.T) *prometheus{
	"KeywardDown": func(t *testing.T) *prometheus {
		a, p := watchedAgent(t, t.TempDir(), nil)
		a.Kill()
		return p
	},
	"KeywardHalted": func(t *testing.T) *prometheus {
		a, p := watchedAgent(t, t.TempDir(), nil)
		if err := os.Rename(filepath.Join(a.Dir, "state/audit.jsonl"), filepath.Join(a.Dir, "moved")); err != nil {
			t.Fatal(err)
		}
		return p
	},
	"KeywardLocked": func(t *testing.T) *prometheus {
		a, p := watchedAgent(t, t.TempDir(), nil)
		a.Keyward("lock")
		return p
	},
	"KeywardBackendDown": func(t *testing.T) *prometheus {
		_, p := watchedAgent(t, t.TempDir(), func(a *Agent) {
			a.appendConfig("[backends.away]\ntype = \"pkcs11\"\nmodule = \"/usr/lib/softhsm/libsofthsm2.so\"\ntoken = " +
				"\"away\"\npin_prompt = true\n")
		})
		return p
	},
	"KeywardSigningFails": func(t *testing.T) *prometheus {
		var faults *Faults
		a, p := watchedAgent(t, t.TempDir(), func(a *Agent) { faults = a.addFaulty() })
		sess := a.activeSessionOn("faulty", transferSpec(1000)).ID
		waitFor(t, "the first scrape", func() bool { return p.has("keyward_signing_failures_total") })
		faults.On("Sign").Set(Return, 0x30, 3) // CKR_DEVICE_ERROR
		for nonce := range uint64(3) {
			if _, err := a.Client().SignTransaction(t.Context(), transferTx(sess, nonce)); err == nil {
				t.Error("signed in spite of the fault")
			}
		}
		return p
	},
	"KeywardRefusals": func(t *testing.T) *prometheus {
		a, p := watchedAgent(t, t.TempDir(), nil)
		sess := a.ActiveSession(transferSpec(10), userAccount)
		a.meanwhile(t, func(c *client.Client, n uint64) {
			tx := transferTx(sess.ID, n)
			tx["value"] = "2"
			c.SignTransaction(context.Background(), tx) // is denied
			time.Sleep(100 * time.Millisecond)
		})
		return p
	},
	"KeywardSlowDisk": func(t *testing.T) *prometheus {
		a, p := watchedAgent(t, t.TempDir(), nil)
		sess := a.ActiveSession(transferSpec(1000), userAccount)
		slow := exec.Command("strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e",
			"inject=fdatasync,fsync:delay_enter=800000",
			"-p", fmt.Sprint(a.cmd.Process.Pid)) // µs
		if err := slow.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { slow.Process.Signal(os.Interrupt); slow.Wait() }) // it lets the agent go on
		a.meanwhile(t, func(c *client.Client, n uint64) { c.SignTransaction(context.Background(), transferTx(sess.ID, n)) })
		return p
	},
	"KeywardQueue": func(t *testing.T) *prometheus {
		var faults *Faults
		a, p := watchedAgent(t, t.TempDir(), func(a *Agent) { faults = a.addFaulty("timeout = \"30s\"") })
		sess := a.activeSessionOn("faulty", transferSpec(1000)).ID
		faults.On("Sign").Set(Delay, 10000, 1000) // ms
		for i := range uint64(150) {
			go a.Client().SignTransaction(context.Background(), transferTx(sess, i)) // the test ends before the answer
		}
		return p
	},
	"KeywardDiskFull": func(t *testing.T) *prometheus {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512m,mode=0700"); err != nil {
			t.Fatalf("mounting a small disk needs root: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		_, p := watchedAgent(t, dir, nil)
		return p
	},
	"KeywardLimitRunsOut": func(t *testing.T) *prometheus {
		a, p := watchedAgent(t, t.TempDir(), nil)
		sess := a.ActiveSession(transferSpec(10), userAccount)
		for nonce := range uint64(10) {
			if _, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, nonce)); err != nil {
				t.Fatal(err)
			}
		}
		return p
	},
	"KeywardSessionEnds": func(t *testing.T) *prometheus {
		a, p := watchedAgent(t, t.TempDir(), nil)
		a.ActiveSession(transferSpec(10), userAccount) // for a day
		return p
	},
	"KeywardChainUnread": func(t *testing.T) *prometheus {
		_, p := watchedAgent(t, t.TempDir(), func(a *Agent) {
			a.appendConfig("[chains.other]\nid = 77\nrpc = [\"http://127.0.0.1:1\"]\nrpc_attempts = 1\n")
		})
		return p
	},
	"KeywardRegistryStops": func(t *testing.T) *prometheus {
		a, p := watchedChainAgent(t)
		sess := a.activeOnChain()
		a.node.SetRegistry(sess.Session.RegistryQueries()[0], policy.Blocked)
		return p
	},
	"KeywardExternalUsage": func(t *testing.T) *prometheus {
		a, p := watchedChainAgent(t)
		sess := a.activeOnChain()
		a.wait(sess.ID, "settled once", func(s *api.Session) bool { return s.Chain != nil && s.Chain.Block > 0 })
		to := sess.Session.TransferPolicies[0].Target
		if err := a.node.Use(a.account, sess.Session, chaintest.Use{To: to, Value: big.NewInt(1)}); err != nil {
			t.Fatal(err)
		}
		return p
	},
}

// meanwhile does something again and again until the test ends.
func (a *Agent) meanwhile(t *testing.T, do func(c *client.Client, n uint64)) {
	t.Helper()
	c := a.Client()
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := uint64(0); ; n++ {
			select {
			case <-over:
				return
			default:
				do(c, n)
			}
		}
	}()
	t.Cleanup(func() { close(over); <-ended })
}

// Each alert that is shipped fires, in Prometheus, when its fault is provoked on a running agent.
func TestAlerts(t *testing.T) {
	rules, err := os.ReadFile("../deploy/prometheus/keyward.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile("../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	var shipped []string
	for _, m := range regexp.MustCompile(`(?m)^ *- alert: (\w+)$`).FindAllSubmatch(rules, -1) {
		name := string(m[1])
		shipped = append(shipped, name)
		if provocations[name] == nil {
			t.Errorf("nothing provokes %s", name)
		}
		if !strings.Contains(string(runbook), "\n## "+name+"\n") {
			t.Errorf("the runbook has no chapter on %s", name)
		}
	}
	fire := strings.Split(*alertsToFire, ",")
	if *alertsToFire == "all" {
		fire = shipped
	}
	for _, name := range fire {
		t.Run(name, func(t *testing.T) {
			p := provocations[name](t)
			waitFor(t, name+" to fire", func() bool { return slices.Contains(p.alerts(), name) })
		})
	}
}
