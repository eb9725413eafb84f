package shared

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keyward/keyward/audit"
)

// SQLSTATEs of the database's functions.
const (
	codeFenced = "KW001"
	codeBatch  = "KW002"
	codeFrozen = "KW003"
	codeLost   = "KW004"
	codeTerm   = "KW005"
)

// callTime bounds one call: a database that hangs must not look as one that works.
const callTime = 10 * time.Second

// conn is a connection that has joined: the database has what the agent has acknowledged.
type conn struct {
	pgx    *pgx.Conn
	warned *atomic.Bool // the server has warned since the last call
	joined joined
}

// joined is the answer to join_store.
type joined struct {
	Epoch     int64    `json:"epoch"`
	Batch     uint64   `json:"batch"`
	Seq       uint64   `json:"seq"`
	Head      string   `json:"head"`
	Has       bool     `json:"has"`
	Timeline  string   `json:"timeline"`
	Confirmed bool     `json:"confirmed"`
	Missing   []string `json:"missing"`
	Frozen    string   `json:"frozen"`
}

// dial connects and joins nothing.
func (l *Ledger) dial(ctx context.Context) (*conn, error) {
	cfg := l.cfg.Conn.Copy()
	warned := new(atomic.Bool)
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			warned.Store(true)
			l.cfg.Logger.Warn("the shared ledger's database warns", "agent", l.cfg.Agent, "message", n.Message)
		}
	}
	if cfg.ConnectTimeout == 0 || cfg.ConnectTimeout > callTime {
		cfg.ConnectTimeout = callTime
	}
	cfg.RuntimeParams["standard_conforming_strings"] = "on" // see literal
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return &conn{pgx: c, warned: warned}, nil
}

// connect dials and joins. blank says that the agent has no guard file from before. Errors: [ErrUnreachable],
// [ErrFenced], [ErrLost], [ErrSchema].
func (l *Ledger) connect(ctx context.Context, blank bool) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	c, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err = checkSchema(ctx, c.pgx); err == nil {
		err = l.join(ctx, c, blank)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (l *Ledger) join(ctx context.Context, c *conn, blank bool) error {
	l.mu.Lock()
	epoch := l.epoch
	l.mu.Unlock()
	m := l.guard.mark()
	args := []string{literal(l.cfg.Agent), "NULL", "NULL", "NULL", "NULL"}
	if epoch != 0 {
		args[1] = fmt.Sprint(epoch)
	}
	if !blank {
		args[2], args[3], args[4] = fmt.Sprint(m.head.Seq), `'\x`+hex.EncodeToString(m.head.Hash[:])+`'`,
			fmt.Sprint(m.version)
	}
	text, err := c.call(ctx, "join_store", args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), &c.joined); err != nil {
		return fmt.Errorf("joining the shared ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch = c.joined.Epoch
	if !c.joined.Has {
		return fmt.Errorf("%w: agent %s had acknowledged record %d and change %d; the database has records up to %d",
			ErrLost, l.cfg.Agent, m.head.Seq, m.version, c.joined.Seq)
	}
	return nil
}

// call calls a function of the schema in one simple Query message and returns its one value. With Parse, Bind and
// Execute the locks would stay until Sync arrives, which a stopped process does not send. A commit that comes with a
// warning is unknown: [ErrUnreachable].
func (c *conn) call(ctx context.Context, function string, args ...string) (string, error) {
	c.warned.Store(false)
	results, err := c.pgx.PgConn().Exec(ctx, "SELECT keyward."+function+"("+strings.Join(args, ",")+")").ReadAll()
	if err != nil {
		return "", translate(function, err)
	}
	if c.warned.Load() {
		return "", fmt.Errorf("%w: the commit came with a warning, so it may not be on the standby", ErrUnreachable)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return "", fmt.Errorf("keyward.%s has not returned one value", function)
	}
	return string(results[0].Rows[0][0]), nil
}

// translate makes an error of a function one of this package's. What is none of them may pass: [ErrUnreachable].
func translate(function string, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	switch pg.Code {
	case codeFenced:
		return fmt.Errorf("%w: %s", ErrFenced, pg.Message)
	case codeFrozen:
		return fmt.Errorf("%w: %s", ErrFrozen, pg.Message)
	case codeLost:
		return fmt.Errorf("%w: %s", ErrLost, pg.Message)
	case codeBatch:
		return fmt.Errorf("%w: %s", errBatch, pg.Message)
	case codeTerm:
		return fmt.Errorf("%w: %s", ErrNotLeader, pg.Message)
	}
	return fmt.Errorf("%w: keyward.%s: %w", ErrUnreachable, function, err)
}

// errBatch: the database expects another batch of this agent. Only a joined connection knows which.
var errBatch = fmt.Errorf("%w: the database expects another batch", errBroken)

// literal is s as SQL.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// journalLine is a record in the database.
type journalLine struct {
	seq  uint64
	text []byte
}

// journal returns the agent's records that its file may not have.
func (c *conn) journal(ctx context.Context, l *Ledger) (all []journalLine, err error) {
	after := l.guard.mark().synced
	rows, err := c.pgx.Query(ctx, "SELECT keyward.journal_of($1, $2, $3)", l.cfg.Agent, l.epoch, int64(after))
	if err != nil {
		return nil, err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for i, line := range lines {
		all = append(all, journalLine{after + uint64(i) + 1, []byte(line)})
	}
	return all, err
}

func (c *conn) close() error {
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c.pgx.Close(ctx)
}

// headOf is the head after h that the database has answered.
func headOf(h audit.Head, seq uint64, hash string) bool {
	return h.Seq == seq && hex.EncodeToString(h.Hash[:]) == hash
}
