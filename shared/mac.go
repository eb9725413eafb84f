package shared

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/keyward/keyward/session"
)

// row is a session in the database. The database can judge by its status and can't make one: the MAC's key is the
// agents' alone.
type row struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Version uint64 `json:"version"`
	Hold    bool   `json:"hold,omitempty"` // the database's own; it only takes away
	Chain   string `json:"chain"`
	Account string `json:"account"`
	Content string `json:"content"` // the session as JSON
	MAC     string `json:"mac"`     // hex
}

// minMACKey is the least length of the key of the MACs, in bytes.
const minMACKey = 32

// statusOf is the word by which the database judges: "active" only if the session can sign.
func statusOf(sess *session.Session) string {
	if sess.Status == session.Active && !sess.Signs() {
		return "blocked"
	}
	return string(sess.Status)
}

// rowOf makes the row of a session's version.
func rowOf(key []byte, sess *session.Session, version uint64) (*row, error) {
	content, err := json.Marshal(sess)
	if err != nil {
		return nil, err
	}
	r := &row{
		ID: string(sess.ID), Status: statusOf(sess), Version: version, Chain: fmt.Sprint(sess.ChainID),
		Account: sess.Account.String(), Content: string(content),
	}
	r.MAC = hex.EncodeToString(r.sum(key))
	return r, nil
}

// sum is HMAC-SHA256 over the fields. Each is a JSON string, so that no two rows have one text.
func (r *row) sum(key []byte) []byte {
	h := hmac.New(sha256.New, key)
	// of strings it never fails
	text, _ := json.Marshal([]string{"keyward session 1", r.ID, r.Status, fmt.Sprint(r.Version), r.Chain, r.Account,
		r.Content})
	h.Write(text)
	return h.Sum(nil)
}

// open returns the session of a row, or [ErrForged].
func (r *row) open(key []byte) (*session.Session, error) {
	mac, err := hex.DecodeString(r.MAC)
	if err != nil || !hmac.Equal(mac, r.sum(key)) {
		return nil, fmt.Errorf("%w: session %q, version %d", ErrForged, r.ID, r.Version)
	}
	sess := new(session.Session)
	if err := json.Unmarshal([]byte(r.Content), sess); err != nil {
		return nil, fmt.Errorf("reading session %q: %w", r.ID, err)
	}
	return sess, nil
}
