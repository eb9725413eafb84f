package shared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What the operator does, as the owner of the schema. No agent's role may.

// Enroll makes an agent with a role of the database, which gets EXECUTE on the functions of agents and no other right.
// Each agent has a role of its own.
func Enroll(ctx context.Context, conn *pgx.Conn, agent, role string) error {
	_, err := conn.Exec(ctx, "SELECT keyward.enroll($1, $2)", agent, role)
	return admin("enrolling agent "+agent, err)
}

// Fenced is what may still leave an agent that was fenced.
type Fenced struct {
	Digests []string `json:"digests"` // in hex; there are no others if Whole
	// Whole is false if the agent has not found its records in the database: what it has charged may be missing there,
	// and so also here. All sessions are on hold then, as after [Reconcile].
	Whole bool `json:"whole"`
}

// Fence stops an agent for good: nothing is charged for it any more.
func Fence(ctx context.Context, conn *pgx.Conn, agent string) (*Fenced, error) {
	var text []byte
	if err := conn.QueryRow(ctx, "SELECT keyward.fence($1)", agent).Scan(&text); err != nil {
		return nil, admin("fencing agent "+agent, err)
	}
	f := new(Fenced)
	return f, json.Unmarshal(text, f)
}

// Lift lets a fenced agent start again with its guard file. One that has lost the file, or whose records the database
// has lost, gets another name: see [Enroll].
func Lift(ctx context.Context, conn *pgx.Conn, agent string) error {
	_, err := conn.Exec(ctx, "SELECT keyward.lift($1)", agent)
	return admin("lifting the fence of agent "+agent, err)
}

// Reconcile says of agents that their processes have ended, and fences them. What one of them has signed may be missing
// in the database if it has not found its records there: each session is on hold then, unless keep says that all of it
// is accounted for. It returns the agents that have still not found their records.
func Reconcile(ctx context.Context, conn *pgx.Conn, stopped []string, keep bool) (missing []string, err error) {
	if stopped == nil {
		stopped = []string{}
	}
	err = conn.QueryRow(ctx, "SELECT keyward.reconcile($1, $2)", stopped, keep).Scan(&missing)
	return missing, admin("reconciling", err)
}

// Unhold ends the hold of a session.
func Unhold(ctx context.Context, conn *pgx.Conn, id string) error {
	_, err := conn.Exec(ctx, "SELECT keyward.release($1)", id)
	return admin("releasing session "+id, err)
}

// AgentStatus is an agent as the database knows it.
type AgentStatus struct {
	Agent   string `json:"agent"`
	Role    string `json:"role"`
	Fenced  bool   `json:"fenced"`
	Found   bool   `json:"found"` // its records, on the database's timeline
	Lost    bool   `json:"lost"`  // records that it had acknowledged
	Records int64  `json:"records"`
	Acks    int64  `json:"acknowledged"` // the last change that it obeys; the largest number: it has stopped in good order
}

// Status is the state of a shared store.
type Status struct {
	Migrations int           `json:"migrations"`
	Timeline   string        `json:"timeline"`
	Confirmed  bool          `json:"confirmed"` // every agent has found its records
	Frozen     string        `json:"frozen,omitempty"`
	Locked     bool          `json:"locked"`
	Version    int64         `json:"version"` // of the last change that agents acknowledge
	Sessions   int           `json:"sessions"`
	Held       int           `json:"held"`
	Agents     []AgentStatus `json:"agents"`
	Durability string        `json:"synchronousCommit"`
	Standbys   string        `json:"synchronousStandbys"` // "": none; a failover can lose commits, which agents find out
}

// ReadStatus reads the state of a shared store.
func ReadStatus(ctx context.Context, conn *pgx.Conn) (*Status, error) {
	if err := checkSchema(ctx, conn); err != nil {
		return nil, err
	}
	s := &Status{Migrations: len(migrations())}
	err := conn.QueryRow(ctx, `SELECT keyward.timeline(), timeline = keyward.timeline() AND frozen IS NULL, coalesce(frozen, ''), locked, version,
		(SELECT count(*) FROM keyward.session), (SELECT count(*) FROM keyward.session WHERE hold),
		current_setting('synchronous_commit'), current_setting('synchronous_standby_names') FROM keyward.store`).
		Scan(&s.Timeline, &s.Confirmed, &s.Frozen, &s.Locked, &s.Version, &s.Sessions, &s.Held, &s.Durability, &s.Standbys)
	if err != nil {
		return nil, admin("reading the store's status", err)
	}
	rows, err := conn.Query(ctx, `SELECT id, db_role::text, fenced, found_on = keyward.timeline(), lost, seq, ack FROM keyward.agent ORDER BY id`)
	if err != nil {
		return nil, err
	}
	s.Agents, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AgentStatus])
	return s, err
}

// admin adds to an error of the database what was done.
func admin(what string, err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pg) && pg.Code == "KW006":
		return fmt.Errorf("%s: %s", what, pg.Message)
	}
	return fmt.Errorf("%s: %w", what, err)
}
