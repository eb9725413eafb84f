package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket"
)

// ChainID is that of no chain (EIP-155 ids are below 2^53), so that no signature made here is worth anything.
const ChainID = 1<<63 - 25

var (
	account   = policy.Address{19: 0x11}
	validator = policy.Address{19: 0x99}
)

// Agent is a whole agent in this process: its own ledger, trail and socket, and one session with
// a throw-away key.
type Agent struct {
	Sessions *session.Sessions
	Session  *session.Session
	Signer   *session.Signer
	Socket   string // path

	device *Device
	peer   audit.Peer
	dir    string // of the socket
	server *socket.Server
	served chan error
	cancel context.CancelFunc
	ran    chan struct{}
	nonce  atomic.Uint64
}

// Start opens an agent in dir, which it makes, over the one backend; the key of its session is fresh. What an
// earlier agent in dir has left in the device, because it was killed, is destroyed first.
func Start(ctx context.Context, dir string, device *Device, logger *slog.Logger) (*Agent, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	sessions, err := session.Open(session.Config{
		LedgerPath: filepath.Join(dir, "ledger"), AuditPath: filepath.Join(dir, "audit.jsonl"),
		Backends: map[string]backends.Backend{"bench": device}, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	a := &Agent{
		device: device, Sessions: sessions, Signer: &session.Signer{Sessions: sessions},
		peer: audit.Peer{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), PID: int32(os.Getpid())},
	}
	a.run(ctx)
	if err := a.open(ctx); err != nil {
		return nil, errors.Join(err, a.Close(ctx))
	}
	return a, nil
}

// run does the upkeep of sessions, which destroys keys.
func (a *Agent) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.cancel, a.ran = cancel, make(chan struct{})
	go func() { defer close(a.ran); a.Sessions.Run(ctx) }()
}

// open makes the session and serves the socket.
func (a *Agent) open(ctx context.Context) error {
	if err := a.endSessions(ctx); err != nil {
		return err
	}
	sess, err := a.Sessions.Create(ctx, a.peer, &session.CreateRequest{
		Kind: session.AGW, Spec: Spec(), Account: account, ChainID: ChainID, Validator: validator,
		Clients: []session.Client{{ID: a.peer.UID}},
	})
	if err != nil {
		return err
	}
	if a.Session, err = a.Sessions.Activate(ctx, a.peer, sess.ID); err != nil {
		return err
	}
	return a.serve(ctx)
}

// serve serves the socket. It is in a directory of its own, because the path of a socket must be short (unix(7)).
func (a *Agent) serve(ctx context.Context) (err error) {
	if a.dir, err = os.MkdirTemp("", "keyward-bench-"); err != nil {
		return err
	}
	a.Socket = filepath.Join(a.dir, "agent.sock")
	l, err := socket.Listen(a.Socket, 0o600)
	if err != nil {
		return err
	}
	a.server = socket.New(socket.Config{Signer: a.Signer, Version: "bench", Started: time.Now()})
	a.served = make(chan error, 1)
	go func() { a.served <- a.server.Serve(context.WithoutCancel(ctx), l, nil) }()
	return nil
}

// Caller connects to the agent.
func (a *Agent) Caller() (*Caller, error) {
	return Dial(a.Socket, a.Session.Signer().String(), account.String(), ChainID)
}

// Nonce is a fresh one.
func (a *Agent) Nonce() uint64 { return a.nonce.Add(1) }

// Close ends the agent's sessions, waits until their keys are destroyed in the device, and closes it. It does
// so although ctx is done. The error says what is left, and where.
func (a *Agent) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	var errs []error
	if a.server != nil {
		errs = append(errs, a.server.Shutdown(ctx), <-a.served)
	}
	if a.dir != "" {
		errs = append(errs, os.RemoveAll(a.dir))
	}
	errs = append(errs, a.endSessions(ctx))
	a.cancel()
	<-a.ran
	return errors.Join(append(errs, a.Sessions.Close())...)
}

// endSessions revokes all sessions and waits until no key is left of them.
func (a *Agent) endSessions(ctx context.Context) error {
	for _, sess := range a.Sessions.List() {
		if !sess.Status.Ended() {
			if _, err := a.Sessions.Revoke(ctx, a.peer, sess.ID); err != nil {
				return err
			}
		}
	}
	for {
		left := a.keysLeft()
		if left == "" {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("key %s may still be in the device: %w", left, ctx.Err())
		}
	}
}

// keysLeft names a key that is still to be destroyed; "": there is none.
func (a *Agent) keysLeft() string {
	for _, sess := range a.Sessions.List() {
		if sess.KeyDestroyedAt.IsZero() {
			return sess.KeyURI
		}
	}
	if unfinished := a.Sessions.Unfinished(); len(unfinished) > 0 {
		return session.KeyLabelPrefix + string(unfinished[0])
	}
	return ""
}

// Spec allows transfers of 1 wei to [Recipient], and counts values and fees against limits that
// no benchmark reaches.
func Spec() *policy.Spec {
	lots := policy.UsageLimit{LimitType: policy.Lifetime, Limit: *new(uint256.Int).Lsh(uint256.NewInt(1), 200)}
	s := &policy.Spec{ExpiresAt: *uint256.NewInt(uint64(time.Now().Add(24 * time.Hour).Unix())), FeeLimit: lots}
	s.TransferPolicies = []policy.TransferSpec{{MaxValuePerUse: *uint256.NewInt(1), ValueLimit: lots}}
	if err := s.TransferPolicies[0].Target.UnmarshalText([]byte(Recipient)); err != nil {
		panic(err)
	}
	return s
}
