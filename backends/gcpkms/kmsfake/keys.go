package kmsfake

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/asn1"
	"encoding/pem"
	"hash/crc32"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/ethereum/go-ethereum/crypto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// cryptoKey is a CryptoKey with its one version.
type cryptoKey struct {
	proto   *kmspb.CryptoKey
	version *kmspb.CryptoKeyVersion
	private *ecdsa.PrivateKey
	looks   int // at its state before it is generated
}

type state = kmspb.CryptoKeyVersion_CryptoKeyVersionState

// SetState puts a version into a state.
func (s *Server) SetState(name string, to state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.findLocked(name)
	if err != nil {
		panic(err)
	}
	k.version.State = to
}

// InState counts the versions in a state.
func (s *Server) InState(in state) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		if k.version.State == in {
			n++
		}
	}
	return n
}

// Newest is the key that was made last.
func (s *Server) Newest() *kmspb.CryptoKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return proto.Clone(s.keys[len(s.keys)-1].proto).(*kmspb.CryptoKey)
}

// SetPending has the versions of keys that are made from now on be in generation until
// their state has been looked at so often.
func (s *Server) SetPending(looks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = looks
}

// PrivateKey is the key of a version.
func (s *Server) PrivateKey(name string) *ecdsa.PrivateKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.findLocked(name)
	if err != nil {
		panic(err)
	}
	return k.private
}

func (s *Server) findLocked(name string) (*cryptoKey, error) {
	for _, k := range s.keys {
		if k.version.Name == name {
			return k, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "CryptoKeyVersion %s not found.", name)
}

// needEnabled is the error of a version that can't be used.
func (k *cryptoKey) needEnabled() error {
	if k.version.State == kmspb.CryptoKeyVersion_ENABLED {
		return nil
	}
	return status.Errorf(codes.FailedPrecondition, "%s is not enabled, current state is: %v.", k.version.Name,
		k.version.State)
}

var (
	idRE    = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,63}$`)
	labelRE = regexp.MustCompile(`^[a-z0-9_-]{0,63}$`)
)

// CreateCryptoKey makes a key and its version 1.
func (s *Server) CreateCryptoKey(_ context.Context, req *kmspb.CreateCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Parent != s.KeyRing {
		return nil, status.Errorf(codes.NotFound, "KeyRing %s not found.", req.Parent)
	}
	if err := checkCreate(req); err != nil {
		return nil, err
	}
	made := proto.Clone(req.CryptoKey).(*kmspb.CryptoKey)
	made.Name, made.CreateTime = s.KeyRing+"/cryptoKeys/"+req.CryptoKeyId, timestamppb.Now()
	if made.DestroyScheduledDuration == nil {
		made.DestroyScheduledDuration = durationpb.New(30 * 24 * time.Hour)
	}
	for _, k := range s.keys {
		if k.proto.Name == made.Name {
			return nil, status.Errorf(codes.AlreadyExists, "CryptoKey %s already exists.", made.Name)
		}
	}
	private, err := crypto.GenerateKey()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	version := &kmspb.CryptoKeyVersion{
		Name: made.Name + "/cryptoKeyVersions/1", State: kmspb.CryptoKeyVersion_ENABLED, CreateTime: made.CreateTime,
		ProtectionLevel: made.VersionTemplate.ProtectionLevel, Algorithm: made.VersionTemplate.Algorithm,
	}
	if s.pending > 0 {
		version.State = kmspb.CryptoKeyVersion_PENDING_GENERATION
	}
	s.keys = append(s.keys, &cryptoKey{made, version, private, s.pending})
	return proto.Clone(made).(*kmspb.CryptoKey), nil
}

// checkCreate refuses what the service would.
func checkCreate(req *kmspb.CreateCryptoKeyRequest) error {
	template := req.CryptoKey.GetVersionTemplate()
	bad := func(what string) error { return status.Error(codes.InvalidArgument, "invalid "+what) }
	switch d := req.CryptoKey.DestroyScheduledDuration.AsDuration(); {
	case !idRE.MatchString(req.CryptoKeyId):
		return bad("crypto_key_id " + strconv.Quote(req.CryptoKeyId))
	case req.CryptoKey.Purpose != kmspb.CryptoKey_ASYMMETRIC_SIGN:
		return bad("purpose")
	case template.GetAlgorithm() != kmspb.CryptoKeyVersion_EC_SIGN_SECP256K1_SHA256 ||
		template.GetProtectionLevel() != kmspb.ProtectionLevel_HSM:
		return bad("version_template: EC_SIGN_SECP256K1_SHA256 is for HSM only")
	case d != 0 && (d < 24*time.Hour || d > 120*24*time.Hour):
		return bad("destroy_scheduled_duration")
	}
	for k, v := range req.CryptoKey.Labels {
		if !labelRE.MatchString(k) || !labelRE.MatchString(v) {
			return bad("label " + strconv.Quote(k+"="+v))
		}
	}
	return nil
}

// GetCryptoKeyVersion tells a version's state.
func (s *Server) GetCryptoKeyVersion(_ context.Context, req *kmspb.GetCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion,
	error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.findLocked(req.Name)
	if err != nil {
		return nil, err
	}
	answer := proto.Clone(k.version).(*kmspb.CryptoKeyVersion)
	if k.version.State == kmspb.CryptoKeyVersion_PENDING_GENERATION {
		if k.looks--; k.looks <= 0 {
			k.version.State = kmspb.CryptoKeyVersion_ENABLED
		}
	}
	return answer, nil
}

// GetPublicKey gives an enabled version's public key.
func (s *Server) GetPublicKey(_ context.Context, req *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.findLocked(req.Name)
	if err != nil {
		return nil, err
	}
	if err := k.needEnabled(); err != nil {
		return nil, err
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki(&k.private.PublicKey)}))
	return &kmspb.PublicKey{
		Name: req.Name, Pem: text, PemCrc32C: checksum([]byte(text)),
		Algorithm: k.version.Algorithm, ProtectionLevel: k.version.ProtectionLevel,
	}, nil
}

// spki encodes a SubjectPublicKeyInfo (RFC 5480, section 2).
func spki(pub *ecdsa.PublicKey) []byte {
	type algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
	der, err := asn1.Marshal(struct {
		Algorithm algorithm
		Point     asn1.BitString
	}{
		algorithm{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, asn1.ObjectIdentifier{1, 3, 132, 0, 10}},
		asn1.BitString{Bytes: crypto.FromECDSAPub(pub), BitLength: 65 * 8},
	})
	if err != nil {
		panic(err)
	}
	return der
}

func checksum(data []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))))
}

// AsymmetricSign signs a digest. Half of the signatures have a high S, as the service's do.
func (s *Server) AsymmetricSign(_ context.Context, req *kmspb.AsymmetricSignRequest) (*kmspb.AsymmetricSignResponse,
	error) {
	digest := req.Digest.GetSha256()
	switch {
	case len(digest) != 32:
		return nil, status.Error(codes.InvalidArgument, "The digest is not 32 bytes of SHA-256.")
	case req.DigestCrc32C != nil && req.DigestCrc32C.Value != checksum(digest).Value:
		return nil, status.Error(codes.InvalidArgument, "The checksum in field digest_crc32c did not match the data in "+
			"field digest.")
	}
	k, err := s.signer(req.Name)
	if err != nil {
		return nil, err
	}
	der, err := Sign(k.private, digest)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &kmspb.AsymmetricSignResponse{
		Name: req.Name, Signature: der, SignatureCrc32C: checksum(der), VerifiedDigestCrc32C: req.DigestCrc32C != nil,
		ProtectionLevel: kmspb.ProtectionLevel_HSM,
	}, nil
}

// signer finds an enabled key. Signing needs no lock.
func (s *Server) signer(name string) (*cryptoKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.findLocked(name)
	if err != nil {
		return nil, err
	}
	return k, k.needEnabled()
}

// Sign makes a DER signature whose S is high half of the time.
func Sign(private *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	raw, err := crypto.Sign(digest, private)
	if err != nil {
		return nil, err
	}
	r, s := new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:64])
	var coin [1]byte
	rand.Read(coin[:])
	if coin[0]&1 == 1 {
		s.Sub(crypto.S256().Params().N, s)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{r, s})
}

// DestroyCryptoKeyVersion schedules a version's destruction.
func (s *Server) DestroyCryptoKeyVersion(_ context.Context,
	req *kmspb.DestroyCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.findLocked(req.Name)
	if err != nil {
		return nil, err
	}
	if k.version.State != kmspb.CryptoKeyVersion_ENABLED && k.version.State != kmspb.CryptoKeyVersion_DISABLED {
		return nil, status.Errorf(codes.FailedPrecondition, "%s cannot be destroyed, current state is: %v.", k.version.Name,
			k.version.State)
	}
	k.version.State = kmspb.CryptoKeyVersion_DESTROY_SCHEDULED
	k.version.DestroyTime = timestamppb.New(time.Now().Add(k.proto.DestroyScheduledDuration.AsDuration()))
	return proto.Clone(k.version).(*kmspb.CryptoKeyVersion), nil
}

// ListCryptoKeys lists keys, few to a page. The token is the number of the first.
func (s *Server) ListCryptoKeys(_ context.Context, req *kmspb.ListCryptoKeysRequest) (*kmspb.ListCryptoKeysResponse,
	error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Parent != s.KeyRing {
		return nil, status.Errorf(codes.NotFound, "KeyRing %s not found.", req.Parent)
	}
	first := 0
	if req.PageToken != "" {
		var err error
		if first, err = strconv.Atoi(strings.TrimPrefix(req.PageToken, "p")); err != nil {
			return nil, status.Error(codes.InvalidArgument, "page_token is invalid")
		}
	}
	answer := &kmspb.ListCryptoKeysResponse{TotalSize: int32(len(s.keys))}
	for i := first; i < len(s.keys); i++ {
		if len(answer.CryptoKeys) == s.page {
			answer.NextPageToken = "p" + strconv.Itoa(i)
			break
		}
		answer.CryptoKeys = append(answer.CryptoKeys, proto.Clone(s.keys[i].proto).(*kmspb.CryptoKey))
	}
	return answer, nil
}
