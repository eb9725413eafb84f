package kmsfake

import (
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
)

// operations are those that there are. They are called with s.mu held, and their result is
// encoded as JSON; nil: the answer has no body.
var operations = map[string]func(s *Server, body []byte, fault *Fault) (any, error){
	"CreateKey":           (*Server).createKey,
	"DescribeKey":         (*Server).describeKey,
	"GetPublicKey":        (*Server).getPublicKey,
	"Sign":                (*Server).sign,
	"Encrypt":             (*Server).encrypt,
	"Decrypt":             (*Server).decrypt,
	"CreateAlias":         (*Server).createAlias,
	"DeleteAlias":         (*Server).deleteAlias,
	"ListAliases":         (*Server).listAliases,
	"ListKeys":            (*Server).listKeys,
	"ListResourceTags":    (*Server).listResourceTags,
	"ScheduleKeyDeletion": (*Server).scheduleKeyDeletion,
	"CancelKeyDeletion":   (*Server).cancelKeyDeletion,
	"DisableKey":          (*Server).disableKey,
	"EnableKey":           (*Server).enableKey,
}

type tag struct{ TagKey, TagValue string }

func (s *Server) createKey(body []byte, _ *Fault) (any, error) {
	var in struct {
		Description, KeySpec, KeyUsage, Origin string
		BypassPolicyLockoutSafetyCheck         bool
		MultiRegion                            *bool
		Tags                                   []tag
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for _, t := range in.Tags {
		_, twice := tags[t.TagKey]
		if t.TagKey == "" || len(t.TagKey) > 128 || len(t.TagValue) > 256 || twice || strings.HasPrefix(t.TagKey, "aws:") ||
			!tagText.MatchString(t.TagKey) || !tagText.MatchString(t.TagValue) {
			return nil, fail("TagException", "tag %q with the value %q is not valid", t.TagKey, t.TagValue)
		}
		tags[t.TagKey] = t.TagValue
	}
	if len(tags) > 50 || len(in.Description) > 8192 {
		return nil, fail("ValidationException", "too many tags, or too long a description")
	}
	spec, usage := in.KeySpec, in.KeyUsage
	if spec == "" {
		spec = "SYMMETRIC_DEFAULT"
	}
	if usage == "" {
		usage = "ENCRYPT_DECRYPT"
	}
	k, err := s.newKey(spec, usage)
	if err != nil {
		return nil, err
	}
	k.description, k.tags = in.Description, tags
	return map[string]any{"KeyMetadata": s.metadata(k)}, nil
}

func (s *Server) metadata(k *key) map[string]any {
	m := map[string]any{
		"AWSAccountId": s.account(), "Arn": k.arn, "KeyId": k.id, "CreationDate": seconds(k.created),
		"Description": k.description,
		"Enabled":     k.state == Enabled, "KeyManager": "CUSTOMER", "KeySpec": k.spec, "CustomerMasterKeySpec": k.spec,
		"KeyState": k.state, "KeyUsage": k.usage, "MultiRegion": false, "Origin": "AWS_KMS",
	}
	if k.state == PendingDeletion {
		m["DeletionDate"] = seconds(k.deletion)
	}
	if k.private != nil {
		m["SigningAlgorithms"] = []string{"ECDSA_SHA_256"}
	} else {
		m["EncryptionAlgorithms"] = []string{"SYMMETRIC_DEFAULT"}
	}
	return m
}

// seconds is a timestamp as JSON 1.1 has it.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func (s *Server) describeKey(body []byte, _ *Fault) (any, error) {
	var in struct{ KeyId string }
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := s.find(in.KeyId)
	if err != nil {
		return nil, err
	}
	return map[string]any{"KeyMetadata": s.metadata(k)}, nil
}

// spkiPrefix is a SubjectPublicKeyInfo of a secp256k1 key up to the point.
var spkiPrefix = []byte{0x30, 0x56, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
	0x81, 0x04, 0x00, 0x0a, 0x03, 0x42, 0x00}

func (s *Server) getPublicKey(body []byte, _ *Fault) (any, error) {
	var in struct{ KeyId string }
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := s.usable(in.KeyId, "")
	if err != nil {
		return nil, err
	}
	if k.private == nil {
		return nil, fail("UnsupportedOperationException", "%s is symmetric.", k.arn)
	}
	return map[string]any{
		"KeyId": k.arn, "KeySpec": k.spec, "CustomerMasterKeySpec": k.spec, "KeyUsage": k.usage,
		"SigningAlgorithms": []string{"ECDSA_SHA_256"},
		"PublicKey":         append(slices.Clone(spkiPrefix), crypto.FromECDSAPub(&k.private.PublicKey)...),
	}, nil
}

func (s *Server) sign(body []byte, fault *Fault) (any, error) {
	var in struct {
		KeyId, MessageType, SigningAlgorithm string
		Message                              []byte
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := s.usable(in.KeyId, "SIGN_VERIFY")
	if err != nil {
		return nil, err
	}
	if in.MessageType != "DIGEST" || in.SigningAlgorithm != "ECDSA_SHA_256" || len(in.Message) != 32 {
		return nil, fail("ValidationException", "want a digest of 32 bytes for ECDSA_SHA_256")
	}
	private := k.private
	if fault.OtherKey {
		private = k.other
	}
	raw, err := crypto.Sign(in.Message, private)
	if err != nil {
		return nil, err
	}
	sig := struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:64])}
	if k.signatures++; k.signatures%2 == 0 { // every other s is high: KMS does not normalize
		sig.S.Sub(crypto.S256().Params().N, sig.S)
	}
	der, err := asn1.Marshal(sig)
	if err != nil {
		return nil, err
	}
	return map[string]any{"KeyId": k.arn, "Signature": der, "SigningAlgorithm": in.SigningAlgorithm}, nil
}

type cryptoInput struct {
	KeyId                     string
	Plaintext, CiphertextBlob []byte
	EncryptionContext         map[string]string
	EncryptionAlgorithm       string
}

// additional is the encryption context, encoded in one way.
func (in *cryptoInput) additional() []byte {
	data, _ := json.Marshal(in.EncryptionContext) // sorts keys, and can't fail
	return data
}

func (s *Server) encrypt(body []byte, _ *Fault) (any, error) {
	var in cryptoInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := s.usable(in.KeyId, "ENCRYPT_DECRYPT")
	if err != nil {
		return nil, err
	}
	if len(in.Plaintext) < 1 || len(in.Plaintext) > 4096 {
		return nil, fail("ValidationException", "Plaintext has %d bytes, want 1 to 4096", len(in.Plaintext))
	}
	blob := k.aead.Seal([]byte(k.id), nil, in.Plaintext, in.additional())
	return map[string]any{"KeyId": k.arn, "CiphertextBlob": blob, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, nil
}

func (s *Server) decrypt(body []byte, _ *Fault) (any, error) {
	var in cryptoInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if len(in.CiphertextBlob) < 36 {
		return nil, fail("InvalidCiphertextException", "null")
	}
	made := s.keys[string(in.CiphertextBlob[:36])]
	if in.KeyId != "" {
		k, err := s.usable(in.KeyId, "ENCRYPT_DECRYPT")
		if err != nil {
			return nil, err
		}
		if made != nil && k != made {
			return nil, fail("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform "+
				"this operation.")
		}
	}
	if made == nil {
		return nil, fail("InvalidCiphertextException", "null")
	}
	if _, err := s.usable(made.id, "ENCRYPT_DECRYPT"); err != nil {
		return nil, err
	}
	plain, err := made.aead.Open(nil, nil, in.CiphertextBlob[36:], in.additional())
	if err != nil {
		return nil, fail("InvalidCiphertextException", "null")
	}
	return map[string]any{"KeyId": made.arn, "Plaintext": plain, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, nil
}

func (s *Server) createAlias(body []byte, _ *Fault) (any, error) {
	var in struct{ AliasName, TargetKeyId string }
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if err := checkAliasName(in.AliasName); err != nil {
		return nil, err
	}
	k, err := s.mutable(in.TargetKeyId)
	if err != nil {
		return nil, err
	}
	if _, taken := s.aliases[in.AliasName]; taken {
		return nil, fail("AlreadyExistsException", "An alias with the name arn:aws:kms:%s:%s:%s already exists", s.region(),
			s.account(), in.AliasName)
	}
	s.aliases[in.AliasName] = k.id
	return nil, nil
}

func (s *Server) deleteAlias(body []byte, _ *Fault) (any, error) {
	var in struct{ AliasName string }
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if _, ok := s.aliases[in.AliasName]; !ok {
		return nil, fail("NotFoundException", "Alias arn:aws:kms:%s:%s:%s is not found.", s.region(), s.account(),
			in.AliasName)
	}
	delete(s.aliases, in.AliasName)
	return nil, nil
}

type pageInput struct {
	KeyId, Marker string
	Limit         int
}

func (s *Server) listAliases(body []byte, _ *Fault) (any, error) {
	var in pageInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	var all []map[string]any
	for _, name := range slices.Sorted(maps.Keys(s.aliases)) {
		if k := s.keys[s.aliases[name]]; in.KeyId == "" || in.KeyId == k.id || in.KeyId == k.arn {
			all = append(all, map[string]any{
				"AliasName": name, "AliasArn": fmt.Sprintf("arn:aws:kms:%s:%s:%s", s.region(), s.account(), name),
				"TargetKeyId": k.id, "CreationDate": seconds(k.created), "LastUpdatedDate": seconds(k.created),
			})
		}
	}
	return s.pageOf("Aliases", all, 50, in)
}

func (s *Server) listKeys(body []byte, _ *Fault) (any, error) {
	var in pageInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	var all []map[string]any
	for _, id := range s.order {
		all = append(all, map[string]any{"KeyId": id, "KeyArn": s.keys[id].arn})
	}
	return s.pageOf("Keys", all, 100, in)
}

func (s *Server) listResourceTags(body []byte, _ *Fault) (any, error) {
	var in pageInput
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := s.find(in.KeyId)
	if err != nil {
		return nil, err
	}
	var all []map[string]any
	for _, name := range slices.Sorted(maps.Keys(k.tags)) {
		all = append(all, map[string]any{"TagKey": name, "TagValue": k.tags[name]})
	}
	return s.pageOf("Tags", all, 50, in)
}

// pageOf is an answer with one page of a list.
func (s *Server) pageOf(name string, all []map[string]any, usual int, in pageInput) (any, error) {
	from, to, next, err := s.page(len(all), in.Limit, usual, in.Marker)
	if err != nil {
		return nil, err
	}
	out := map[string]any{name: append([]map[string]any{}, all[from:to]...), "Truncated": next != ""}
	if next != "" {
		out["NextMarker"] = next
	}
	return out, nil
}

func (s *Server) scheduleKeyDeletion(body []byte, _ *Fault) (any, error) {
	var in struct {
		KeyId               string
		PendingWindowInDays *int
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	days := 30
	if in.PendingWindowInDays != nil {
		days = *in.PendingWindowInDays
	}
	if days < 7 || days > 30 {
		return nil, fail("ValidationException", "PendingWindowInDays %d is not between 7 and 30", days)
	}
	k, err := s.mutable(in.KeyId)
	if err != nil {
		return nil, err
	}
	k.state, k.deletion = PendingDeletion, time.Now().AddDate(0, 0, days)
	return map[string]any{"KeyId": k.arn, "KeyState": k.state, "DeletionDate": seconds(k.deletion),
		"PendingWindowInDays": days}, nil
}

func (s *Server) cancelKeyDeletion(body []byte, _ *Fault) (any, error) {
	var in struct{ KeyId string }
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := s.find(in.KeyId)
	if err != nil {
		return nil, err
	}
	if k.state != PendingDeletion {
		return nil, fail("KMSInvalidStateException", "%s is not pending deletion.", k.arn)
	}
	k.state = Disabled
	return map[string]any{"KeyId": k.arn}, nil
}

func (s *Server) disableKey(body []byte, _ *Fault) (any, error) { return s.switchKey(body, Disabled) }
func (s *Server) enableKey(body []byte, _ *Fault) (any, error)  { return s.switchKey(body, Enabled) }

func (s *Server) switchKey(body []byte, state string) (any, error) {
	var in struct{ KeyId string }
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	k, err := s.mutable(in.KeyId)
	if err != nil {
		return nil, err
	}
	k.state = state
	return nil, nil
}
