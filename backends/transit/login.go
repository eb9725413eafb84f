package transit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/keyward/keyward/internal/secret"
)

// Methods are the ways to get a token. "token": a secret source has it.
var Methods = []string{"token", "approle", "kubernetes"}

// Auth says how the agent gets a token.
type Auth struct {
	Method string // one of [Methods]
	Mount  string // of the auth method; "": its name. Not for "token".
	Role   string // AppRole's role ID, or the name of the Kubernetes role
	// Secret gets the token, the secret ID, or the service account's token. It is asked for each login.
	Secret secret.Source
}

func (a *Auth) check() error {
	switch {
	case !slices.Contains(Methods, a.Method):
		return fmt.Errorf("auth %q: want one of %q", a.Method, Methods)
	case a.Secret == nil:
		return fmt.Errorf("auth %q has no source for its secret", a.Method)
	case a.Method == "token" && (a.Mount != "" || a.Role != ""):
		return errors.New(`auth "token" has no mount and no role`)
	case a.Method != "token" && a.Role == "":
		return fmt.Errorf("auth %q has no role", a.Method)
	case a.Mount != "" && (!mountName.MatchString(a.Mount) || hasDots(a.Mount)):
		return fmt.Errorf("auth mount %q: want a path such as %q, without auth/ before it", a.Mount, "approle")
	}
	return nil
}

// tokenAnswer is the "auth" of an answer to a login or a renewal.
type tokenAnswer struct {
	ClientToken   tokenValue `json:"client_token"`
	LeaseDuration int64      `json:"lease_duration"` // seconds; 0: no end
	Renewable     bool       `json:"renewable"`
}

func (a *tokenAnswer) life() time.Duration { return seconds(a.LeaseDuration) }

// seconds is n seconds, at least 0, and no more than can be counted.
func seconds(n int64) time.Duration { return time.Duration(min(max(n, 0), 1<<32)) * time.Second }

// tokenValue is a JSON string without escapes, read into bytes that can be wiped.
type tokenValue []byte

func (v *tokenValue) UnmarshalJSON(data []byte) error {
	if len(data) < 2 || data[0] != '"' || slices.Contains(data, '\\') {
		return errors.New("no token")
	}
	*v = slices.Clone(data[1 : len(data)-1])
	return nil
}

// login exchanges credential for a token. It closes credential, unless it gives ErrLogin. No error shows what Vault
// said: it may quote the credential.
func (a *Auth) login(ctx context.Context, c *client, credential *secret.Buffer) (*token, error) {
	if a.Method == "token" {
		return a.lookUp(ctx, c, credential)
	}
	op := operation{method: http.MethodPost, path: "auth/" + a.mount() + "/login", capability: "update"}
	body, err := a.request(credential)
	if err != nil {
		return nil, errors.Join(err, credential.Close())
	}
	defer clear(body)
	var out struct{ Auth tokenAnswer }
	err = c.send(ctx, op, nil, body, &out)
	if refusal := new(answerError); errors.As(err, &refusal) && refusal.vaults &&
		(refusal.status == http.StatusBadRequest || refusal.status == http.StatusForbidden) {
		return nil, fmt.Errorf("%w: %s with role %q: status %d: check the role and its secret (secret IDs expire, and may "+
			"be used up), "+
			"and Vault's log", ErrLogin, op.path, a.Role, refusal.status)
	}
	if refusal := new(answerError); errors.As(err, &refusal) {
		refusal.messages = nil
	}
	if err != nil {
		return nil, errors.Join(c.explain(op, err), credential.Close())
	}
	value, err := secret.Take(out.Auth.ClientToken)
	if err != nil {
		return nil, errors.Join(err, credential.Close())
	}
	if value.Len() == 0 {
		return nil, errors.Join(fmt.Errorf("%w: the answer to a login has no token", errNotVault), value.Close(),
			credential.Close())
	}
	t := &token{value: value, issued: time.Now(), life: out.Auth.life(), renewable: out.Auth.Renewable}
	return t, credential.Close()
}

func (a *Auth) mount() string {
	if a.Mount != "" {
		return a.Mount
	}
	return a.Method
}

// request is the body of a login.
func (a *Auth) request(credential *secret.Buffer) (body []byte, err error) {
	err = credential.Use(func(value []byte) error {
		if a.Method == "kubernetes" {
			body, err = json.Marshal(map[string]string{"role": a.Role, "jwt": string(value)})
		} else {
			body, err = json.Marshal(map[string]string{"role_id": a.Role, "secret_id": string(value)})
		}
		return err
	})
	return body, err
}

// lookUp asks Vault for the life of a token that was given. Without a policy that allows this (Vault's "default"
// does), the token is used as it is, and not renewed.
func (a *Auth) lookUp(ctx context.Context, c *client, value *secret.Buffer) (*token, error) {
	op := operation{method: http.MethodGet, path: "auth/token/lookup-self", capability: "read"}
	var out struct {
		Data struct {
			TTL       int64 `json:"ttl"` // seconds; 0: no end
			Renewable bool  `json:"renewable"`
		}
	}
	t := &token{value: value, issued: time.Now()}
	err := c.send(ctx, op, value, nil, &out)
	if e := new(answerError); errors.As(err, &e) && e.vaults && e.status == http.StatusForbidden {
		c.log.Warn("Vault does not tell how long its token lives, so it is not renewed", "path", op.path)
		return t, nil
	}
	if err != nil {
		return nil, errors.Join(c.explain(op, err), value.Close())
	}
	t.life, t.renewable = seconds(out.Data.TTL), out.Data.Renewable
	return t, nil
}
