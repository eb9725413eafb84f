package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyward/keyward/backends/sealed"
)

// PCRs is a set of platform configuration registers of the SHA-256 bank, as bits; PCR 0 is the lowest. 0: none.
type PCRs uint32

// pcrCount is how many registers there are: PC Client Platform TPM Profile, 4.6.
const pcrCount = 24

// ParsePCRs reads numbers from 0 to 23, each once and in ascending order, with commas between: "7,14". "": none.
func ParsePCRs(s string) (PCRs, error) {
	var set PCRs
	if s == "" {
		return set, nil
	}
	for _, number := range strings.Split(s, ",") {
		n, err := strconv.ParseUint(number, 10, 8)
		if err != nil || n >= pcrCount || strconv.FormatUint(n, 10) != number || set>>n != 0 {
			return 0, fmt.Errorf("PCRs %q: want numbers from 0 to %d, in ascending order with commas between, such as %q", s,
				pcrCount-1, "7,14")
		}
		set |= 1 << n
	}
	return set, nil
}

// String is what [ParsePCRs] reads.
func (p PCRs) String() string {
	var numbers []string
	for n := range pcrCount {
		if p&(1<<n) != 0 {
			numbers = append(numbers, strconv.Itoa(n))
		}
	}
	return strings.Join(numbers, ",")
}

func (p PCRs) selection() tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{byte(p), byte(p >> 8), byte(p >> 16)}, // TPM 2.0 Library, part 2, 10.6.2
	}}}
}

// digest is the hash of the registers' values now, as TPM2_PolicyPCR has it.
func (p PCRs) digest(c *conn) ([]byte, error) {
	values := map[int][]byte{}
	for left := p; left != 0; {
		answer, err := tpm2.PCRRead{PCRSelectionIn: left.selection()}.Execute(c) // eight of them at a time
		if err != nil {
			return nil, explain("reading PCRs", err)
		}
		got := 0
		for _, value := range answer.PCRValues.Digests {
			if left == 0 || len(value.Buffer) != sha256.Size {
				return nil, explain("reading PCRs", fmt.Errorf("the TPM answered with other values than those of %v", left))
			}
			n := bits.TrailingZeros32(uint32(left))
			values[n] = value.Buffer
			left &^= 1 << n
			got++
		}
		if got == 0 {
			return nil, explain("reading PCRs", fmt.Errorf("the TPM has no SHA-256 bank with PCRs %v", left))
		}
	}
	h := sha256.New()
	for n := range pcrCount {
		h.Write(values[n])
	}
	return h.Sum(nil), nil
}

// blob is a sealed secret outside of the TPM.
type blob struct {
	pcrs      PCRs
	pcrDigest []byte // of their values when it was sealed; nil if there are none
	public    []byte // TPMT_PUBLIC
	private   []byte // TPM2B_PRIVATE without its size
}

// blobVersion is a blob's first byte.
const blobVersion = 1

// marshal is the version, the set of PCRs in 3 bytes, the lowest first, the length of each of the other fields in 2
// bytes, big-endian, before the field.
func (b *blob) marshal() []byte {
	out := []byte{blobVersion, byte(b.pcrs), byte(b.pcrs >> 8), byte(b.pcrs >> 16)}
	for _, field := range [][]byte{b.pcrDigest, b.public, b.private} {
		out = binary.BigEndian.AppendUint16(out, uint16(len(field)))
		out = append(out, field...)
	}
	return out
}

// parseBlob reads what marshal writes, and nothing else. Errors are [sealed.ErrDamaged].
func parseBlob(data []byte) (*blob, error) {
	if len(data) < 4 || data[0] != blobVersion {
		return nil, fmt.Errorf("%w: it is not a TPM's blob of a version that is known here", sealed.ErrDamaged)
	}
	b := &blob{pcrs: PCRs(data[1]) | PCRs(data[2])<<8 | PCRs(data[3])<<16}
	rest := data[4:]
	for _, field := range []*[]byte{&b.pcrDigest, &b.public, &b.private} {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return nil, fmt.Errorf("%w: the TPM's blob is cut short", sealed.ErrDamaged)
		}
		n := int(binary.BigEndian.Uint16(rest))
		*field, rest = rest[2:2+n], rest[2+n:]
	}
	if len(rest) > 0 || len(b.pcrDigest) != b.pcrs.digestSize() {
		return nil, fmt.Errorf("%w: the TPM's blob has %d bytes too many, or a PCR digest of %d", sealed.ErrDamaged,
			len(rest), len(b.pcrDigest))
	}
	return b, nil
}

func (p PCRs) digestSize() int {
	if p == 0 {
		return 0
	}
	return sha256.Size
}

// policy is the digest of what has to be so before the TPM opens the secret: the PCRs have the values that they had,
// and the binding's auth value is known.
func (b *blob) policy() ([]byte, error) {
	p, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	for _, step := range b.policySteps(tpm2.TPMRHNull) {
		if err := step.Update(p); err != nil {
			return nil, err
		}
	}
	return p.Hash().Digest, nil
}

// policySteps are the commands that satisfy the policy in a session.
func (b *blob) policySteps(session tpm2.TPMHandle) []tpm2.PolicyCommand {
	var steps []tpm2.PolicyCommand
	if b.pcrs != 0 {
		steps = append(steps, tpm2.PolicyPCR{
			PolicySession: session, PcrDigest: tpm2.TPM2BDigest{Buffer: slices.Clone(b.pcrDigest)}, Pcrs: b.pcrs.selection(),
		})
	}
	return append(steps, tpm2.PolicyAuthValue{PolicySession: session})
}

// template is the public area of the sealed object: it stays under its parent in its TPM, opens by its policy alone,
// and no try to open it counts as a wrong PIN.
func (b *blob) template() (tpm2.TPMTPublic, error) {
	policy, err := b.policy()
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgKeyedHash,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, AdminWithPolicy: true, NoDA: true},
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
	}, err
}

// check refuses a blob whose parts don't belong together, before the TPM is asked.
func (b *blob) check() error {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](b.public)
	if err != nil {
		return fmt.Errorf("%w: the public part of the TPM's blob: %w", sealed.ErrDamaged, err)
	}
	want, err := b.template()
	if err != nil {
		return err
	}
	want.Unique = public.Unique
	if !bytes.Equal(tpm2.Marshal(want), b.public) {
		return fmt.Errorf("%w: the public part of the TPM's blob is not that of a secret sealed to PCRs %q",
			sealed.ErrDamaged, b.pcrs)
	}
	return nil
}
