package kvfake

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"net/http"
	"strings"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys/fake"
	"github.com/ethereum/go-ethereum/crypto"
)

// key is a key with its versions, the last one the latest.
type key struct {
	kty      azkeys.KeyType
	tags     map[string]*string
	versions []*version
	deleted  bool
}

type version struct {
	id       string
	private  *ecdsa.PrivateKey
	disabled bool
}

// perPage is the number of keys in a page of a list.
const perPage = 2

// operations are those that the backend uses.
func (s *Server) operations() *fake.Server {
	return &fake.Server{
		CreateKey: s.create, GetKey: s.get, Sign: s.sign, DeleteKey: s.delete, PurgeDeletedKey: s.purge,
		NewListKeyPropertiesPager: s.list,
	}
}

// SetDisabled disables or enables all versions of the key.
func (s *Server) SetDisabled(name string, disabled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.keys[name].versions {
		v.disabled = disabled
	}
}

// SetDeleting has that many purges told that the key is still being deleted.
func (s *Server) SetDeleting(times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleting = times
}

// Names returns the keys that are not deleted, as they were made.
func (s *Server) Names() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.order {
		if k := s.keys[name]; k != nil && !k.deleted {
			names = append(names, name)
		}
	}
	return names
}

// Sign signs as the key's latest version does: 64 bytes R ‖ S, of which every second has a high S.
func (s *Server) Sign(name string, digest []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sign(s.keys[name].versions[len(s.keys[name].versions)-1].private, digest)
}

func sign(private *ecdsa.PrivateKey, digest []byte) []byte {
	sig, err := crypto.Sign(digest, private)
	if err != nil {
		panic(err)
	}
	if sig[31]&1 == 1 {
		high := new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(sig[32:64]))
		high.FillBytes(sig[32:64])
	}
	return sig[:64]
}

func (s *Server) kid(name, version string) *azkeys.ID {
	id := azkeys.ID(s.URL + "/keys/" + name + "/" + version)
	return &id
}

func (s *Server) bundle(name string, k *key, v *version) azkeys.KeyBundle {
	curve, enabled := azkeys.CurveNameP256K, !v.disabled
	point := crypto.FromECDSAPub(&v.private.PublicKey)
	return azkeys.KeyBundle{
		Key:        &azkeys.JSONWebKey{KID: s.kid(name, v.id), Kty: &k.kty, Crv: &curve, X: point[1:33], Y: point[33:]},
		Attributes: &azkeys.KeyAttributes{Enabled: &enabled}, Tags: k.tags,
	}
}

// find returns a version, the latest for "", or what refuses it.
func (s *Server) find(name, id string, refused *azfake.ErrorResponder) (*key, *version) {
	if inName, rest, ok := strings.Cut(name, "/"); ok { // the library's fake takes both for the name
		name, id = inName, rest
	}
	if k := s.keys[name]; k != nil && !k.deleted {
		for i := len(k.versions) - 1; i >= 0; i-- {
			if v := k.versions[i]; id == "" || v.id == id {
				return k, v
			}
		}
	}
	refused.SetResponseError(http.StatusNotFound, "KeyNotFound")
	return nil, nil
}

func (s *Server) create(_ context.Context, name string, params azkeys.CreateKeyParameters,
	_ *azkeys.CreateKeyOptions) (resp azfake.Responder[azkeys.CreateKeyResponse], refused azfake.ErrorResponder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[name]
	switch {
	case k != nil && k.deleted:
		refused.SetResponseError(http.StatusConflict, "ObjectIsDeletedButRecoverable")
		return
	case params.Curve == nil || *params.Curve != azkeys.CurveNameP256K || params.Kty == nil:
		refused.SetResponseError(http.StatusBadRequest, "BadParameter")
		return
	case k == nil:
		k = &key{kty: *params.Kty, tags: params.Tags}
		s.keys[name] = k
		s.order = append(s.order, name)
	}
	private, err := crypto.GenerateKey()
	if err != nil {
		panic(err)
	}
	var id [16]byte
	rand.Read(id[:])
	v := &version{id: hex.EncodeToString(id[:]), private: private}
	k.versions = append(k.versions, v)
	resp.SetResponse(http.StatusOK, azkeys.CreateKeyResponse{KeyBundle: s.bundle(name, k, v)}, nil)
	return
}

func (s *Server) get(_ context.Context, name, id string,
	_ *azkeys.GetKeyOptions) (resp azfake.Responder[azkeys.GetKeyResponse], refused azfake.ErrorResponder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, v := s.find(name, id, &refused); k != nil {
		name, _, _ = strings.Cut(name, "/")
		resp.SetResponse(http.StatusOK, azkeys.GetKeyResponse{KeyBundle: s.bundle(name, k, v)}, nil)
	}
	return
}

func (s *Server) sign(_ context.Context, name, id string, params azkeys.SignParameters,
	_ *azkeys.SignOptions) (resp azfake.Responder[azkeys.SignResponse], refused azfake.ErrorResponder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, v := s.find(name, id, &refused)
	switch {
	case k == nil:
	case v.disabled:
		refused.SetResponseError(http.StatusForbidden, "KeyDisabled")
	case params.Algorithm == nil || *params.Algorithm != azkeys.SignatureAlgorithmES256K || len(params.Value) != 32:
		refused.SetResponseError(http.StatusBadRequest, "BadParameter")
	default:
		name, _, _ = strings.Cut(name, "/")
		resp.SetResponse(http.StatusOK, azkeys.SignResponse{KeyOperationResult: azkeys.KeyOperationResult{
			KID: s.kid(name, v.id), Result: sign(v.private, params.Value),
		}}, nil)
	}
	return
}

func (s *Server) delete(_ context.Context, name string,
	_ *azkeys.DeleteKeyOptions) (resp azfake.Responder[azkeys.DeleteKeyResponse], refused azfake.ErrorResponder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, v := s.find(name, "", &refused); k != nil {
		k.deleted = true
		b := s.bundle(name, k, v)
		resp.SetResponse(http.StatusOK, azkeys.DeleteKeyResponse{DeletedKey: azkeys.DeletedKey{Key: b.Key,
			Attributes: b.Attributes, Tags: b.Tags}}, nil)
	}
	return
}

func (s *Server) purge(_ context.Context, name string,
	_ *azkeys.PurgeDeletedKeyOptions) (resp azfake.Responder[azkeys.PurgeDeletedKeyResponse],
	refused azfake.ErrorResponder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch k := s.keys[name]; {
	case k == nil || !k.deleted:
		refused.SetResponseError(http.StatusNotFound, "KeyNotFound")
	case s.deleting > 0:
		s.deleting--
		refused.SetResponseError(http.StatusConflict, "ObjectIsBeingDeleted")
	default:
		delete(s.keys, name)
		resp.SetResponse(http.StatusNoContent, azkeys.PurgeDeletedKeyResponse{}, nil)
	}
	return
}

// list has perPage keys in a page, by name alone.
func (s *Server) list(*azkeys.ListKeyPropertiesOptions) (pages azfake.PagerResponder[azkeys.ListKeyPropertiesResponse]) {
	names := s.Names()
	s.mu.Lock()
	defer s.mu.Unlock()
	for page := 0; page == 0 || page < len(names); page += perPage {
		var list azkeys.ListKeyPropertiesResponse
		for _, name := range names[page:min(page+perPage, len(names))] {
			id, enabled := azkeys.ID(s.URL+"/keys/"+name), true
			list.Value = append(list.Value, &azkeys.KeyProperties{KID: &id, Attributes: &azkeys.KeyAttributes{Enabled: &enabled},
				Tags: s.keys[name].tags})
		}
		pages.AddPage(http.StatusOK, list, nil)
	}
	return pages
}
