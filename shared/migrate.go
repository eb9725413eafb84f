package shared

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed schema/*.sql
var schema embed.FS

// migrationLock is the key of the advisory lock under which migrations run.
const migrationLock = 0x6b657977617264 // "keyward"

// migration is one step of the schema. Its text never changes once it is released.
type migration struct {
	number int
	name   string
	text   string
	hash   string // SHA-256 in hex
}

func migrations() (all []migration) {
	files, err := schema.ReadDir("schema")
	if err != nil {
		panic(err) // it is part of the program
	}
	for _, f := range files { // sorted
		text, err := schema.ReadFile(path.Join("schema", f.Name()))
		if err != nil {
			panic(err)
		}
		number, err := strconv.Atoi(strings.SplitN(f.Name(), "_", 2)[0])
		if err != nil || number != len(all)+1 {
			panic("schema/" + f.Name() + " is not the next migration")
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{number, strings.TrimSuffix(f.Name(), ".sql"), string(text), hex.EncodeToString(sum[:])})
	}
	return all
}

// Migrate brings the schema of the database that conn is connected to, as its owner, to this version. It makes the
// schema if there is none. Several may run: each waits for the one before. It returns the names of the steps that it
// took.
func Migrate(ctx context.Context, conn *pgx.Conn) (taken []string, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS keyward; SET LOCAL search_path = keyward, pg_temp;
			CREATE TABLE IF NOT EXISTS migration (number int PRIMARY KEY, name text NOT NULL, hash text NOT NULL, at timestamptz NOT NULL DEFAULT now())`)
		if err != nil {
			return err
		}
		done, err := pending(ctx, tx, "keyward.migration")
		if err != nil {
			return err
		}
		for _, m := range migrations()[done:] {
			if _, err := tx.Exec(ctx, m.text); err != nil {
				return fmt.Errorf("migration %s: %w", m.name, err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO migration (number, name, hash) VALUES ($1, $2, $3)", m.number, m.name,
				m.hash); err != nil {
				return err
			}
			taken = append(taken, m.name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("migrating the shared store: %w", err)
	}
	return taken, nil
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// pending returns how many migrations the database has, by the table or the function that lists them. Each must be this
// program's own.
func pending(ctx context.Context, q querier, from string) (done int, err error) {
	rows, err := q.Query(ctx, "SELECT number, name, hash FROM "+from+" ORDER BY number")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	known := migrations()
	for rows.Next() {
		var m migration
		if err := rows.Scan(&m.number, &m.name, &m.hash); err != nil {
			return 0, err
		}
		if done == len(known) {
			return 0, fmt.Errorf("%w: it has migration %s, which this program does not know: use the release that made it",
				ErrSchema, m.name)
		}
		if m.hash != known[done].hash {
			return 0, fmt.Errorf("%w: migration %s in the database is not this program's: use the release that made it",
				ErrSchema, m.name)
		}
		done++
	}
	return done, rows.Err()
}

// checkSchema is nil if the database has exactly the schema of this program, and conn's role may use it.
func checkSchema(ctx context.Context, q querier) error {
	done, err := pending(ctx, q, "keyward.steps()")
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && (pg.Code == "42883" || pg.Code == "3F000"): // undefined_function, invalid_schema_name
		return fmt.Errorf("%w: there is none: migrate it", ErrSchema)
	case errors.As(err, &pg) && pg.Code == "42501": // insufficient_privilege
		return fmt.Errorf("%w: %s: enroll this agent", ErrSchema, pg.Message)
	case err != nil:
		return err
	case done < len(migrations()):
		return fmt.Errorf("%w: it has %d of %d migrations: migrate it", ErrSchema, done, len(migrations()))
	}
	return nil
}
