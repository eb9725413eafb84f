// Package fuzzed holds the list of parsers of foreign bytes to the fuzz targets that there are.
package fuzzed

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// parsers are the functions that read what others have written, by package, and the fuzz target of each in that
// package.
var parsers = []struct{ what, dir, parser, target string }{
	{"messages on the sockets, HTTP bodies among them", "socket", "parseMessage", "FuzzStream"},
	{"PINs in parameters", "socket", "decodePIN", "FuzzDecodePIN"},
	{"JSON, token by token", "policy", "parseTree", "FuzzParse"},
	{"JSON values in parameters", "policy", "ParseJSON", "FuzzOpen"},
	{"sessions' specs, in each of their forms", "policy", "ParseSpec", "FuzzParseSpec"},
	{"specs as contracts encode them", "policy", "DecodeABI", "FuzzDecodeABI"},
	{"functions' signatures", "policy", "ParseSignature", "FuzzParseSignature"},
	{"cases of the policy", "policy", "ParseCase", "FuzzParseCase"},
	{"cases of the registry", "policy", "ParseRegistryCase", "FuzzParseRegistryCase"},
	{"typed data", "internal/zktx", "ParseTypedData", "FuzzParseTypedData"},
	{"transactions in JSON", "internal/zktx", "ParseTransaction", "FuzzParseTransaction"},
	{"raw transactions (RLP)", "internal/zktx", "ParseRaw", "FuzzParseRaw"},
	{"config.toml", "internal/config", "Parse", "FuzzLoad"},
	{"the trail's lines and segments", "audit", "verify", "FuzzVerify"},
	{"values of the store", "session", "settled", "FuzzStored"},
	{"clients' names", "session", "ParseClient", "FuzzParseClient"},
	{"maps of user namespaces", "session", "readIDMap", "FuzzIDMap"},
	{"answers of contracts", "chain", "decodeAggregate", "FuzzDecodeAggregate"},
	{"sealed keys' files", "backends/sealed", "parse", "FuzzParse"},
	{"the TPM's blobs", "backends/tpm", "parseBlob", "FuzzBlob"},
	{"lists of PCRs", "backends/tpm", "ParsePCRs", "FuzzParsePCRs"},
	{"PKCS #11 URIs", "backends/pkcs11", "ParseURI", "FuzzURI"},
	{"OpenPGP cards' URIs", "backends/openpgp", "parseURI", "FuzzParseURI"},
	{"OpenPGP cards' private objects", "backends/openpgp", "parseRecord", "FuzzParseRecord"},
	{"OpenPGP cards' answers (BER-TLV)", "backends/openpgp", "parseTLV", "FuzzCard"},
	{"PIV cards' answers (BER-TLV)", "backends/piv", "parseTLV", "FuzzParseTLV"},
	{"attestations (X.509 in PEM)", "backends/piv", "ParseAttestation", "FuzzParseAttestation"},
	{"answers to APDUs", "internal/pcsc", "collect", "FuzzCollect"},
	{"signatures in DER", "backends", "ParseDERSignature", "FuzzParseDERSignature"},
	{"public keys in DER (SPKI)", "backends", "ParseSPKI", "FuzzParseSPKI"},
	{"AWS keys' URIs", "backends/awskms", "parseURI", "FuzzParseURI"},
	{"Google keys' URIs", "backends/gcpkms", "parseURI", "FuzzParseURI"},
	{"Azure vaults and keys' URIs", "backends/azurekv", "parseURI", "FuzzParseURI"},
	{"frames of backends' processes", "backends/isolated", "parseHead", "FuzzReadFrame"},
	{"a backend's process that misbehaves", "backends/isolated", "decodeError", "FuzzPeer"},
	{"pinentry's lines", "internal/secret", "next", "FuzzGetPIN"},
	{"PIN files and systemd's credentials", "internal/secret", "readFile", "FuzzPINFile"},
}

// Each parser and each target is there.
func TestEachParserIsFuzzed(t *testing.T) {
	sources := map[string]string{}
	for _, p := range parsers {
		if _, ok := sources[p.dir]; ok {
			continue
		}
		files, err := filepath.Glob(filepath.Join("../..", p.dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
		sources[p.dir] = all.String()
	}
	for _, p := range parsers {
		if !regexp.MustCompile(`(?m)^func (\([^)]*\) )?` + p.parser + `\(`).MatchString(sources[p.dir]) {
			t.Errorf("%s: package %s has no function %s", p.what, p.dir, p.parser)
		}
		if !strings.Contains(sources[p.dir], "func "+p.target+"(f *testing.F)") {
			t.Errorf("%s: package %s has no fuzz target %s for %s", p.what, p.dir, p.target, p.parser)
		}
	}
}
