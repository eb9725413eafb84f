package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A standby follows, takes over under a new timeline, and is then the one that writes go to.
func TestStandby(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	primary := Start(t)
	execute(ctx, t, primary.URL("postgres", "postgres"), "CREATE TABLE numbers (n int); INSERT INTO numbers VALUES (42)")
	standby := primary.Standby("second")
	for { // it is asynchronous
		conn, err := pgx.Connect(ctx, "host="+standby.dir+" user=postgres dbname=postgres")
		if err != nil {
			t.Fatal(err)
		}
		var n int
		err = conn.QueryRow(ctx, "SELECT n FROM numbers").Scan(&n)
		conn.Close(ctx)
		if err == nil && n == 42 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the standby has %d, %v", n, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	primary.Stop("immediate")
	standby.Promote()
	execute(ctx, t, URL("postgres", "postgres", primary, standby), "INSERT INTO numbers VALUES (43)")
}

func execute(ctx context.Context, t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}
