package client

import (
	"context"
	"encoding/json"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
)

// call calls a method whose result is a T.
func call[T any](ctx context.Context, c *Client, method string, params ...any) (T, error) {
	var result T
	err := c.Call(ctx, &result, method, params...)
	return result, err
}

// Sessions lists the sessions that this process may use and that have not ended, oldest first, on agent.sock. It asks
// for one page after the other.
func (c *Client) Sessions(ctx context.Context) ([]*api.Session, error) {
	return all(ctx, c.SessionsPage)
}

// SessionsPage is a page of [Client.Sessions].
func (c *Client) SessionsPage(ctx context.Context, page api.Page) ([]*api.Session, error) {
	return call[[]*api.Session](ctx, c, "session_list", page)
}

// pageOfAll is how many sessions a call asks for that wants all: each is some kilobytes.
const pageOfAll = 500

// all gets every page of a list.
func all(ctx context.Context, list func(context.Context, api.Page) ([]*api.Session, error)) ([]*api.Session, error) {
	sessions := []*api.Session{}
	for page := (api.Page{Limit: pageOfAll}); ; page.After = sessions[len(sessions)-1].ID {
		next, err := list(ctx, page)
		if err != nil {
			return nil, err
		}
		if sessions = append(sessions, next...); len(next) < page.Limit {
			return sessions, nil
		}
	}
}

// Session returns a session by its id or signer, with what is left of its limits: on agent.sock one
// that this process may use, on admin.sock any.
func (c *Client) Session(ctx context.Context, name string) (*api.Session, error) {
	sess, err := call[*api.Session](ctx, c, "session_get", name)
	if reply := Details(err); reply != nil && reply.Code == api.CodeNoMethod {
		return call[*api.Session](ctx, c, "admin_getSession", api.SessionID{ID: name})
	}
	return sess, err
}

// Accounts lists the signers that this process may use, on agent.sock.
func (c *Client) Accounts(ctx context.Context) ([]policy.Address, error) {
	return call[[]policy.Address](ctx, c, "eth_accounts")
}

// Simulate returns the verdict that signing tx would get now, on agent.sock. tx is anything that is a
// transaction in JSON, see session_signTransaction in docs/protocol.md.
func (c *Client) Simulate(ctx context.Context, tx any) (*api.Verdict, error) {
	return call[*api.Verdict](ctx, c, "session_simulate", tx)
}

// SignTransaction has tx signed, on agent.sock; tx is as for [Client.Simulate].
func (c *Client) SignTransaction(ctx context.Context, tx any) (*api.SignedTransaction, error) {
	return call[*api.SignedTransaction](ctx, c, "session_signTransaction", tx)
}

// Approvals lists the requests that wait for an approval, oldest first, on approve.sock.
func (c *Client) Approvals(ctx context.Context) ([]*api.Approval, error) {
	return call[[]*api.Approval](ctx, c, "approve_list")
}

// Approval returns a request that waits, with what is left of its session, on approve.sock.
func (c *Client) Approval(ctx context.Context, id string) (*api.Approval, error) {
	return call[*api.Approval](ctx, c, "approve_get", api.ApprovalID{ID: id})
}

// Vote takes this process's user's vote on a request that waits, on approve.sock.
func (c *Client) Vote(ctx context.Context, vote api.ApprovalVote) error {
	return c.Call(ctx, nil, "approve_vote", vote)
}

// What follows is for the operator, on admin.sock.

// CreateSession makes a key and a pending session around it; an eoa session is active at once.
func (c *Client) CreateSession(ctx context.Context, req *api.CreateSession) (*api.Session, error) {
	return call[*api.Session](ctx, c, "admin_createSession", req)
}

// CheckBackend has a backend make a throw-away key, sign with it and destroy it.
func (c *Client) CheckBackend(ctx context.Context, name string) (*api.BackendCheck, error) {
	return call[*api.BackendCheck](ctx, c, "admin_checkBackend", api.CheckBackend{Backend: name})
}

// RewrapKey has a session's key, named by the session's ID or signer or by its URI, encrypted with the device key of
// now.
func (c *Client) RewrapKey(ctx context.Context, key string) (*api.RewrappedKey, error) {
	return call[*api.RewrappedKey](ctx, c, "admin_rewrapKey", api.RewrapKey{Key: key})
}

// ImportSession recovers a session from the chain whose key a backend still has.
func (c *Client) ImportSession(ctx context.Context, req *api.ImportSession) (*api.Session, error) {
	return call[*api.Session](ctx, c, "admin_importSession", req)
}

// RenewSession makes a pending successor of an active session.
func (c *Client) RenewSession(ctx context.Context, req *api.RenewSession) (*api.Session, error) {
	return call[*api.Session](ctx, c, "admin_renewSession", req)
}

// ActivateSession says that the owner has approved the session on chain.
func (c *Client) ActivateSession(ctx context.Context, id string) (*api.Session, error) {
	return call[*api.Session](ctx, c, "admin_activateSession", api.SessionID{ID: id})
}

// RevokeSession ends a session: nothing more is signed.
func (c *Client) RevokeSession(ctx context.Context, id string) (*api.Session, error) {
	return call[*api.Session](ctx, c, "admin_revokeSession", api.SessionID{ID: id})
}

// SetClients says who may use a session from now on.
func (c *Client) SetClients(ctx context.Context, id string, clients []string) (*api.Session, error) {
	return call[*api.Session](ctx, c, "admin_setClients", api.SetClients{ID: id, Clients: clients})
}

// CloseSession says that the owner has ended the session on chain.
func (c *Client) CloseSession(ctx context.Context, id string) (*api.Session, error) {
	return call[*api.Session](ctx, c, "admin_closeSession", api.SessionID{ID: id})
}

// AllSessions lists all sessions, oldest first, also those that have ended. It asks for one page after the other.
func (c *Client) AllSessions(ctx context.Context) ([]*api.Session, error) {
	return all(ctx, c.AllSessionsPage)
}

// AllSessionsPage is a page of [Client.AllSessions].
func (c *Client) AllSessionsPage(ctx context.Context, page api.Page) ([]*api.Session, error) {
	return call[[]*api.Session](ctx, c, "admin_listSessions", page)
}

// Keys lists the keys in all devices.
func (c *Client) Keys(ctx context.Context) ([]api.Key, error) {
	return call[[]api.Key](ctx, c, "admin_keys")
}

// KeysOf lists the keys in the device of the backend of that name.
func (c *Client) KeysOf(ctx context.Context, backend string) ([]api.Key, error) {
	return call[[]api.Key](ctx, c, "admin_keys", api.Keys{Backend: backend})
}

// Attest returns what a device states on a key: that of the session with that ID or signer, or the key's URI.
func (c *Client) Attest(ctx context.Context, key string) (*api.Attestation, error) {
	return call[*api.Attestation](ctx, c, "admin_attest", api.Attest{Key: key})
}

// Backends lists the configured backends and how they are.
func (c *Client) Backends(ctx context.Context) ([]api.Backend, error) {
	return call[[]api.Backend](ctx, c, "admin_backends")
}

// Clients lists who is connected to the agent.
func (c *Client) Clients(ctx context.Context) ([]api.Client, error) {
	return call[[]api.Client](ctx, c, "admin_clients")
}

// Lock stops signing until Unlock, also over a restart, and has the devices forget their PINs. The result says how each
// device is. With req.Wait it comes when all have logged out.
func (c *Client) Lock(ctx context.Context, req api.Lock) (*api.Locked, error) {
	return call[*api.Locked](ctx, c, "admin_lock", req)
}

// UnlockAgent ends the agent's own lock and touches no device.
func (c *Client) UnlockAgent(ctx context.Context) error {
	return c.Call(ctx, nil, "admin_unlock", api.Unlock{Agent: true})
}

// Unlock lets the agent sign again and has all backends log in, if backend is "". Otherwise it has backend log in, and
// the agent stays locked unless it has no other. A device takes pin, which is
// tried once and wiped, or with nil the one from where the configuration says.
func (c *Client) Unlock(ctx context.Context, backend string, pin []byte) error {
	return c.givePIN(ctx, api.Unlock{Backend: backend}, pin)
}

// UnlockAdmin gives backend its admin PIN, which is wiped, for the next key that is generated or destroyed.
func (c *Client) UnlockAdmin(ctx context.Context, backend string, pin []byte) error {
	return c.givePIN(ctx, api.Unlock{Backend: backend, AdminPIN: true}, pin)
}

func (c *Client) givePIN(ctx context.Context, req api.Unlock, pin []byte) error {
	defer clear(pin)
	if pin != nil {
		encoded, err := json.Marshal(string(pin))
		if err != nil {
			return err
		}
		req.PIN = encoded
		defer clear(req.PIN)
	}
	return c.Call(ctx, nil, "admin_unlock", req)
}

// Reload has the agent read its configuration again.
func (c *Client) Reload(ctx context.Context) (*api.Reloaded, error) {
	return call[*api.Reloaded](ctx, c, "admin_reload")
}

// Status says how the agent is.
func (c *Client) Status(ctx context.Context) (*api.Status, error) {
	return call[*api.Status](ctx, c, "admin_status")
}

// AuditHead is the last record of the audit trail.
func (c *Client) AuditHead(ctx context.Context) (api.AuditHead, error) {
	return call[api.AuditHead](ctx, c, "admin_auditHead")
}

// TrailArchived has the agent record that the first segments of the trail were archived.
func (c *Client) TrailArchived(ctx context.Context, gone api.TrailArchived) error {
	_, err := call[api.Done](ctx, c, "admin_trailArchived", gone)
	return err
}

// TrailErased has the agent seal its trail's newest segment, and record that personal data of earlier records is
// deleted.
func (c *Client) TrailErased(ctx context.Context, choice api.TrailErased) error {
	_, err := call[api.Done](ctx, c, "admin_trailErased", choice)
	return err
}

// CopyLedger has the agent copy its ledger, and returns the directory of the copy.
func (c *Client) CopyLedger(ctx context.Context) (api.Copied, error) {
	return call[api.Copied](ctx, c, "admin_copyLedger")
}
