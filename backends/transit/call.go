package transit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
	"github.com/keyward/keyward/internal/secret"
)

// maxAnswer bounds an answer of Vault, in bytes. A transit key's description grows with its versions.
const maxAnswer = 1 << 20

// call makes a call with a token, and repeats it while there is time. in is the request's body, nil for none; the
// answer's "data" is decoded into an O. A call that Vault refuses is made once more if there is another token by then.
func call[O any](ctx context.Context, c *client, op operation, in any) (*O, error) {
	body, err := marshal(in)
	if err != nil {
		return nil, err
	}
	defer clear(body)
	return kmscall.Do(ctx, c.caller, func(ctx context.Context) (*O, error) {
		for retried := false; ; retried = true {
			t, err := c.tokens.get(ctx)
			if err != nil {
				return nil, err
			}
			var out struct{ Data O }
			err = c.send(ctx, op, t.value, body, &out)
			if err == nil {
				t.worked.Store(true)
				return &out.Data, nil
			}
			if e := new(answerError); retried || !errors.As(err, &e) || e.status != http.StatusForbidden ||
				!c.tokens.refused(t) {
				return nil, c.explain(op, err)
			}
		}
	})
}

func marshal(in any) ([]byte, error) {
	if in == nil {
		return nil, nil
	}
	return json.Marshal(in)
}

// send makes one request and decodes its answer into out, which may be nil. token may be nil. An answer that is no
// success gives an [*answerError]. The body can be sent again.
func (c *client) send(ctx context.Context, op operation, token *secret.Buffer, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, op.method, c.base+"/v1/"+op.path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	// Vault's agents and proxies refuse requests without it, so that no web page makes some.
	req.Header.Set("X-Vault-Request", "true")
	if c.cfg.Namespace != "" && !op.root {
		req.Header.Set("X-Vault-Namespace", c.cfg.Namespace)
	}
	if token != nil {
		_ = token.Use(func(t []byte) error { req.Header.Set("X-Vault-Token", string(t)); return nil })
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	defer clear(content)
	switch {
	case err != nil:
		return fmt.Errorf("reading the answer: %w", err)
	case len(content) > maxAnswer:
		return fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	case answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusNoContent:
		return readError(answer, content)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(content, out); err != nil {
		// Not the error's text: it quotes the answer.
		return fmt.Errorf("%w: the answer of %s to %s can't be read; is it Vault?", backends.ErrUnavailable, c.base, op.path)
	}
	return nil
}
