package azurekv

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/keyward/keyward/backends"
)

// scheme is that of keys' URIs; the rest is the key identifier with its version,
// https://VAULT/keys/NAME/VERSION.
const scheme = "azurekv:"

// vault is where keys are.
type vault struct {
	url        string // without a slash at the end
	host       string
	managedHSM bool
}

func parseVault(s string) (vault, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.Fragment != "" {
		return vault{}, fmt.Errorf("%q is no vault; want https://NAME.vault.azure.net or https://NAME.managedhsm.azure.net",
			s)
	}
	host := strings.ToLower(u.Host)
	return vault{url: "https://" + host, host: host, managedHSM: strings.Contains(host, ".managedhsm.")}, nil
}

func (v vault) kind() string {
	if v.managedHSM {
		return "Azure Managed HSM"
	}
	return "Azure Key Vault"
}

// keyID is a key identifier's two parts in its vault.
type keyID struct{ name, version string }

// Names and versions (https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates).
var keyPathRE = regexp.MustCompile(`^/keys/([0-9a-zA-Z-]{1,127})/([0-9a-zA-Z]{32})$`)

// parseID reads an identifier with a version of a key in the vault.
func (v vault) parseID(id string) (keyID, bool) {
	inVault, ok := strings.CutPrefix(id, v.url)
	m := keyPathRE.FindStringSubmatch(inVault)
	if !ok || m == nil {
		return keyID{}, false
	}
	return keyID{m[1], m[2]}, true
}

func (v vault) id(k keyID) string { return v.url + "/keys/" + k.name + "/" + k.version }

// parseURI returns the key in the configured vault that uri names. A key elsewhere is none of
// this backend's, whatever its credentials would let it do.
func (b *Backend) parseURI(uri string) (keyID, error) {
	id, ok := strings.CutPrefix(uri, scheme)
	if !ok {
		return keyID{}, fmt.Errorf("azurekv %s: %q is no URI of a key in Azure; want %s and a key identifier with its version", b.cfg.Name, uri, scheme)
	}
	k, ok := b.vault.parseID(id)
	if !ok {
		return keyID{}, fmt.Errorf("azurekv %s: %w: %q names no key version in %s", b.cfg.Name, backends.ErrKeyNotFound, uri,
			b.vault.url)
	}
	return k, nil
}

var notInNameRE = regexp.MustCompile(`[^0-9a-zA-Z-]`)

// keyName makes the name of a key: the label as far as it fits, and what makes it unique, since the
// name of a deleted key can't be used again before that is purged.
func keyName(label string) string {
	fits := notInNameRE.ReplaceAllString(label, "-")
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return fits[:min(len(fits), 127-1-2*len(b))] + "-" + hex.EncodeToString(b[:])
}

// Tags of a key; values are at most 256 characters.
const (
	tagSession = "keyward-session"
	tagAccount = "keyward-account"
	tagChain   = "keyward-chain"

	maxTag = 256
)

func tags(attrs backends.KeyAttributes) (map[string]*string, error) {
	chain := fmt.Sprint(attrs.ChainID)
	all := map[string]*string{tagSession: &attrs.Label, tagAccount: &attrs.Account, tagChain: &chain}
	for name, value := range all {
		if len(*value) > maxTag {
			return nil, fmt.Errorf("%d bytes do not fit into Azure's tag %s", len(*value), name)
		}
	}
	return all, nil
}

// sessionLabel is the label that a key was made for. It reports false for a key that is not ours.
func sessionLabel(p *azkeys.KeyProperties) (string, bool) {
	label := p.Tags[tagSession]
	if label == nil {
		return "", false
	}
	return *label, true
}
