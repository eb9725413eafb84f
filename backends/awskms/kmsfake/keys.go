package kmsfake

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
)

// Key states, as in DescribeKey.
const (
	Enabled         = "Enabled"
	Disabled        = "Disabled"
	PendingDeletion = "PendingDeletion"
)

type key struct {
	id, arn     string
	spec, usage string
	description string
	state       string
	created     time.Time
	deletion    time.Time
	tags        map[string]string
	unseen      int // so many calls more don't find it

	private, other *ecdsa.PrivateKey // ECC_SECG_P256K1
	aead           cipher.AEAD       // SYMMETRIC_DEFAULT
	signatures     int
}

// KeyIDs are the IDs of all keys, oldest first.
func (s *Server) KeyIDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

// State is the state of the key with that ID or ARN.
func (s *Server) State(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.find(id)
	if err != nil {
		return ""
	}
	return k.state
}

// SetState puts a key into a state.
func (s *Server) SetState(id, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.find(id)
	if err != nil {
		panic(err)
	}
	k.state = state
}

// Deletion is when a key will be deleted; zero: it will not.
func (s *Server) Deletion(id string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.find(id)
	if err != nil {
		panic(err)
	}
	return k.deletion
}

// Tags are the tags of a key.
func (s *Server) Tags(id string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.find(id)
	if err != nil {
		return nil
	}
	return maps.Clone(k.tags)
}

// Aliases are the names of all aliases, sorted.
func (s *Server) Aliases() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.aliases))
}

// NewWrappingKey makes a key for Encrypt and Decrypt and returns its ARN.
func (s *Server) NewWrappingKey() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.newKey("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
	if err != nil {
		panic(err)
	}
	return k.arn
}

// HideNewKeys makes the next key that is made unknown to the n calls after it: KMS is
// eventually consistent.
func (s *Server) HideNewKeys(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hide = n
}

func (s *Server) newKey(spec, usage string) (*key, error) {
	k := &key{id: uuid(), spec: spec, usage: usage, state: Enabled, created: time.Now(), tags: map[string]string{}}
	k.arn = fmt.Sprintf("arn:aws:kms:%s:%s:key/%s", s.region(), s.account(), k.id)
	k.unseen, s.hide = s.hide, 0
	var err error
	switch {
	case spec == "ECC_SECG_P256K1" && usage == "SIGN_VERIFY":
		if k.private, err = crypto.GenerateKey(); err == nil {
			k.other, err = crypto.GenerateKey()
		}
	case spec == "SYMMETRIC_DEFAULT" && usage == "ENCRYPT_DECRYPT":
		secret := make([]byte, 32)
		rand.Read(secret)
		var block cipher.Block
		if block, err = aes.NewCipher(secret); err == nil {
			k.aead, err = cipher.NewGCMWithRandomNonce(block)
		}
	default:
		return nil, fail("ValidationException", "KeyUsage %s is not compatible with KeySpec %s", usage, spec)
	}
	if err != nil {
		return nil, err
	}
	if s.keys == nil {
		s.keys, s.aliases = map[string]*key{}, map[string]string{}
	}
	s.keys[k.id] = k
	s.order = append(s.order, k.id)
	return k, nil
}

// find finds a key by its ID or ARN, or by an alias's name or ARN.
func (s *Server) find(id string) (*key, error) {
	name := id
	if rest, isARN := strings.CutPrefix(id, "arn:"); isARN {
		parts := strings.SplitN(rest, ":", 5)
		if len(parts) != 5 || parts[1] != "kms" {
			return nil, fail("InvalidArnException", "Invalid arn %s", id)
		}
		if parts[2] != s.region() {
			return nil, fail("NotFoundException", "Invalid arn %s", parts[2])
		}
		if parts[3] != s.account() {
			return nil, fail("AccessDeniedException", "the key is another account's")
		}
		name = strings.TrimPrefix(parts[4], "key/")
	}
	if strings.HasPrefix(name, "alias/") {
		target, ok := s.aliases[name]
		if !ok {
			return nil, fail("NotFoundException", "Alias arn:aws:kms:%s:%s:%s is not found.", s.region(), s.account(), name)
		}
		name = target
	}
	k := s.keys[name]
	if k != nil && k.unseen > 0 {
		k.unseen--
		k = nil
	}
	if k == nil {
		return nil, fail("NotFoundException", "Key 'arn:aws:kms:%s:%s:key/%s' does not exist", s.region(), s.account(), name)
	}
	return k, nil
}

// usable is find for what needs an enabled key.
func (s *Server) usable(id, usage string) (*key, error) {
	k, err := s.find(id)
	if err != nil {
		return nil, err
	}
	switch {
	case k.state == Disabled:
		return nil, fail("DisabledException", "%s is disabled.", k.arn)
	case k.state != Enabled:
		return nil, fail("KMSInvalidStateException", "%s is pending deletion.", k.arn)
	case usage != "" && k.usage != usage:
		return nil, fail("InvalidKeyUsageException", "%s key usage is %s which is not valid for this operation.", k.arn,
			k.usage)
	}
	return k, nil
}

// mutable is find for what KMS refuses on a key pending deletion.
func (s *Server) mutable(id string) (*key, error) {
	k, err := s.find(id)
	if err == nil && k.state == PendingDeletion {
		err = fail("KMSInvalidStateException", "%s is pending deletion.", k.arn)
	}
	return k, err
}

// decode reads an operation's input, strictly.
func decode(body []byte, in any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil {
		return fail("SerializationException", "%v", err)
	}
	return nil
}

var (
	aliasName = regexp.MustCompile(`^alias/[a-zA-Z0-9/_-]+$`)
	tagText   = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)
)

func checkAliasName(name string) error {
	if len(name) > 256 || !aliasName.MatchString(name) || strings.HasPrefix(name, "alias/aws/") {
		return fail("InvalidAliasNameException", "alias name %q is not valid", name)
	}
	return nil
}

// page cuts a list into pages. Its marker is the index of the next one.
func (s *Server) page(count, limit, usual int, marker string) (from, to int, next string, err error) {
	if limit == 0 {
		limit = usual
	}
	if limit < 1 || limit > 1000 {
		return 0, 0, "", fail("ValidationException", "Limit %d is not between 1 and 1000", limit)
	}
	if s.PageSize > 0 {
		limit = min(limit, s.PageSize)
	}
	if marker != "" {
		if _, err := fmt.Sscanf(marker, "marker-%d", &from); err != nil || from > count {
			return 0, 0, "", fail("InvalidMarkerException", "marker %q is not valid", marker)
		}
	}
	to = min(from+limit, count)
	if to < count {
		next = fmt.Sprintf("marker-%d", to)
	}
	return from, to, next, nil
}
