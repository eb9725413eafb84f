package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/top"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

func (t *tool) topCommand() *cli.Command {
	return &cli.Command{
		Name:  "top",
		Usage: "show what the agent signs and what its sessions have left, once a second",
		Description: "Arrow keys choose a session and look into it; q leaves.\n" +
			"Bars are what is left of a limit and of a session's time.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "once", Usage: "print the screen once, without colors, and end; needs no terminal"},
			&cli.IntFlag{Name: "width", Value: 120, Usage: "of the screen with --once, in `CHARACTERS`"},
		},
		Action: t.top,
	}
}

func (t *tool) top(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	if c.Int("width") < 40 {
		return usageError("--width: %d is less than 40", c.Int("width"))
	}
	p, err := t.findRunning(c)
	if err != nil {
		return err
	}
	w := &watching{p: p}
	defer w.close()
	if err := w.connect(c.Context); err != nil { // the first time its error is the command's
		return err
	}
	if c.Bool("json") {
		return t.printJSON(w.look(c.Context, "").Status)
	}
	if !c.Bool("once") {
		if err := top.Run(c.Context, os.Stdout, w.look); !errors.Is(err, top.ErrNoTerminal) {
			return err
		}
		return withHint(usageError("keyward top needs a terminal"), "keyward top --once")
	}
	snap := w.look(c.Context, "")
	if snap.Err != nil {
		return snap.Err
	}
	s := &top.Screen{Width: c.Int("width"), Location: time.Local}
	s.Feed(snap)
	s.Height = 1000
	lines := s.Lines()
	for _, line := range lines[:len(lines)-1] { // not the keys
		if line = string(bytes.TrimRight([]byte(line), " ")); line != "" {
			t.print("%s", line)
		}
	}
	return nil
}

// watching asks an agent, and connects again after an error.
type watching struct {
	p  *place
	cl *client.Client
}

func (w *watching) connect(ctx context.Context) (err error) {
	w.cl, err = w.p.dial(ctx, w.p.agent().AdminSocket)
	return err
}

func (w *watching) close() {
	if w.cl != nil {
		w.cl.Close()
		w.cl = nil
	}
}

// look is how the agent is now, with the records of the session alone; "": of none.
func (w *watching) look(ctx context.Context, alone string) top.Snapshot {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if w.cl == nil {
		if err := w.connect(ctx); err != nil {
			return top.Snapshot{Err: err}
		}
	}
	snap, err := w.ask(ctx, alone)
	if err != nil {
		w.close()
		return top.Snapshot{Err: err}
	}
	return *snap
}

func (w *watching) ask(ctx context.Context, alone string) (*top.Snapshot, error) {
	status, err := w.cl.Status(ctx)
	if err != nil {
		return nil, err
	}
	snap := &top.Snapshot{At: time.Now(), Status: status}
	if snap.Sessions, err = w.cl.AllSessions(ctx); err != nil {
		return nil, err
	}
	slices.SortStableFunc(snap.Sessions, func(a, b *api.Session) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.SignsUntil.Compare(b.SignsUntil))
	})
	for i, sess := range snap.Sessions {
		if i >= top.MostWhole && sess.ID != alone || rank(sess) > 1 && sess.ID != alone {
			continue
		}
		if snap.Sessions[i], err = w.cl.Session(ctx, sess.ID); err != nil {
			return nil, err
		}
	}
	if alone != "" {
		snap.Records, err = w.records(alone)
	}
	return snap, err
}

// rank orders sessions: active, pending, and those that have ended.
func rank(s *api.Session) int {
	if i := slices.Index([]string{"active", "pending"}, s.Status); i >= 0 {
		return i
	}
	return 2
}

// lookBack is how many of the trail's last records are searched for a session's.
const lookBack = 2000

// records are the session's among the last of the trail, for a person.
func (w *watching) records(id string) (lines []string, err error) {
	trail, err := audit.OpenSegments(w.p.dirs.AuditTrail())
	if err != nil {
		return nil, err
	}
	defer trail.Close()
	if err := trail.SeekLast(lookBack); err != nil {
		return nil, err
	}
	err = follow(context.Background(), trail, false, func(line []byte) error {
		var r tailRecord
		if !bytes.Contains(line, []byte(id)) || json.Unmarshal(line, &r) != nil || r.Session != id {
			return nil
		}
		lines = append(lines, recordLine(&r))
		return nil
	})
	return lines[max(0, len(lines)-100):], err
}
