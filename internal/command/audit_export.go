package command

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/policy"
)

func (t *tool) exportCommand() *cli.Command {
	return &cli.Command{
		Name:  "export",
		Usage: "send the audit trail to a SIEM: its lines as they are, over a socket, and those that come, until interrupted",
		Description: "Each record arrives at least once: after a break, records that may not have arrived are sent again. " +
			"seq tells them apart.\n" +
			"The agent does not know of it: a receiver that is slow or away delays the export only.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "unix:PATH, tcp:HOST:PORT or tls:HOST:PORT; `ADDRESS` of the receiver"},
			&cli.StringFlag{Name: "position", TakesFile: true,
				Usage: "`FILE` that keeps what was sent (default: export.position in the state)"},
			&cli.BoolFlag{Name: "acks", Usage: "the receiver answers with lines that have the number of the last record it " +
				"has kept; only then is it taken as sent"},
			&cli.BoolFlag{Name: "once", Usage: "end when all records there are were sent"},
		},
		Action: t.auditExport,
	}
}

// position is the last record that was sent.
type position struct {
	Seq  uint64      `json:"seq"`
	Hash policy.Hash `json:"hash"`
}

// export sends a trail to one receiver.
type export struct {
	tool     *tool
	trail    string
	dial     func(ctx context.Context) (net.Conn, error)
	file     string // of the position
	acks     bool
	once     bool
	sent     position
	patience time.Duration // for the receiver to take a batch
}

const (
	exportBatch    = 256 << 10 // bytes that are sent before the position is written
	exportPatience = 30 * time.Second
	exportPause    = 30 * time.Second // at most between two tries to connect
)

func (t *tool) auditExport(c *cli.Context) error {
	if err := required(c, "to"); err != nil {
		return err
	}
	p, err := findAgent(c)
	if err != nil {
		return err
	}
	dial, err := receiver(c.String("to"))
	if err != nil {
		return err
	}
	x := &export{tool: t, trail: p.dirs.AuditTrail(), dial: dial, file: c.String("position"), acks: c.Bool("acks"),
		once: c.Bool("once"), patience: exportPatience}
	if x.file == "" {
		x.file = exportPosition(p.dirs)
	}
	if err := x.begin(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return x.run(ctx)
}

// receiver reads --to.
func receiver(to string) (func(context.Context) (net.Conn, error), error) {
	network, address, ok := strings.Cut(to, ":")
	var d net.Dialer
	switch {
	case !ok || address == "":
	case network == "unix" || network == "tcp":
		return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, address) }, nil
	case network == "tls":
		secure := &tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12}}
		return func(ctx context.Context) (net.Conn, error) { return secure.DialContext(ctx, "tcp", address) }, nil
	}
	return nil, usageError("--to %q: want unix:PATH, tcp:HOST:PORT or tls:HOST:PORT", to)
}

// exportPosition is the default of --position.
func exportPosition(dirs config.Dirs) string { return filepath.Join(dirs.State, "export.position") }

// load reads the position; known is false if nothing was sent yet.
func (x *export) load() (known bool, err error) {
	data, err := os.ReadFile(x.file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &x.sent)
	}
	if err != nil {
		return false, fmt.Errorf("reading the position of the export: %s: %w", x.file, err)
	}
	return true, nil
}

// begin reads the position. The first export begins with the first record that was not archived.
func (x *export) begin() error {
	known, err := x.load()
	if err != nil {
		return err
	}
	first, err := audit.Beginning(x.trail)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the agent's first start makes it
		return nil
	case err != nil:
		return err
	case !known:
		x.sent = position{first.Seq, policy.Hash(first.Hash)}
	case x.sent.Seq < first.Seq:
		return fmt.Errorf("records %d to %d were archived before they were sent: send them from the archive; "+
			"without %s the export begins with record %d", x.sent.Seq+1, first.Seq, x.file, first.Seq+1)
	}
	return nil
}

// save makes the position durable.
func (x *export) save(to position) error {
	data, err := json.Marshal(to)
	if err != nil {
		return err
	}
	dir, err := os.Stat(filepath.Dir(x.file))
	if err != nil {
		return err
	}
	uid, gid := -1, -1
	if owner := dir.Sys().(*syscall.Stat_t); os.Geteuid() == 0 {
		uid, gid = int(owner.Uid), int(owner.Gid)
	}
	if err := (durable.Files{FS: durable.OS}).WriteOwned(x.file, append(data, '\n'), 0o600, uid, gid); err != nil {
		return err
	}
	x.sent = to
	return nil
}

// run sends until ctx is done. It connects again after each failure, with pauses that grow.
func (x *export) run(ctx context.Context) error {
	for pause := time.Second; ; pause = min(2*pause, exportPause) {
		before := x.sent.Seq
		err := x.connected(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, audit.ErrDamaged):
			return err
		}
		if x.sent.Seq > before {
			pause = time.Second
		}
		x.tool.note("warning: exporting after record %d: %v; trying again in %v", x.sent.Seq, err, pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// connected sends over one connection.
func (x *export) connected(ctx context.Context) error {
	records, err := audit.Follow(x.trail, audit.Head{Seq: x.sent.Seq, Hash: x.sent.Hash})
	if err != nil {
		return err
	}
	defer records.Close()
	conn, err := x.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var answers *acknowledged
	if x.acks {
		answers = &acknowledged{from: json.NewDecoder(conn)}
	}
	for {
		batch, err := nextBatch(records)
		if err != nil {
			return err
		}
		if len(batch) > 0 {
			if err := x.send(ctx, conn, answers, batch, position{records.Head.Seq, policy.Hash(records.Head.Hash)}); err != nil {
				return err
			}
			continue
		}
		if x.once {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followStep):
		}
	}
}

// nextBatch reads the records that are there, up to exportBatch bytes.
func nextBatch(records *audit.Follower) (batch []byte, err error) {
	for len(batch) < exportBatch {
		line, err := records.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		batch = append(append(batch, line...), '\n')
	}
	return batch, nil
}

// send sends a batch and moves the position once the receiver has it.
func (x *export) send(ctx context.Context, conn net.Conn, answers *acknowledged, batch []byte, last position) error {
	if err := conn.SetDeadline(time.Now().Add(x.patience)); err != nil {
		return err
	}
	if _, err := conn.Write(batch); err != nil {
		return err
	}
	if answers != nil {
		if err := answers.wait(last.Seq); err != nil {
			return err
		}
	} else if err := drained(ctx, conn, x.patience); err != nil {
		return err
	}
	return x.save(last)
}

// acknowledged reads a receiver's answers.
type acknowledged struct{ from *json.Decoder }

// wait returns when the receiver has kept record seq.
func (a *acknowledged) wait(seq uint64) error {
	for kept := uint64(0); kept < seq; {
		if err := a.from.Decode(&kept); err != nil {
			return fmt.Errorf("waiting for the receiver to acknowledge record %d: %w", seq, err)
		}
	}
	return nil
}

// drained returns when the other side's kernel has everything that was sent or, on a Unix socket, its process has read
// it (tcp(7), unix(7), SIOCOUTQ).
func drained(ctx context.Context, conn net.Conn, patience time.Duration) error {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; {
		left := 0
		var callErr error
		if err := raw.Control(func(fd uintptr) { left, callErr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			return err
		}
		switch {
		case callErr != nil || left == 0:
			return callErr
		case time.Now().After(end):
			return fmt.Errorf("the receiver does not take %d bytes within %v", left, patience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
