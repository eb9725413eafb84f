package pkcs11

/*
#cgo linux LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>

typedef unsigned long ulong_t; // CK_ULONG, and so CK_RV, session and object handles

typedef struct {
	ulong_t mechanism;
	void *parameter;
	ulong_t length;
} mechanism_t;

// CK_FUNCTION_LIST (PKCS #11 v2.40, 3.6): the version, then the functions in the order of pkcs11f.h.
typedef struct {
	unsigned char major, minor;
	void (*functions[68])(void);
} list_t;

enum { C_GET_INFO = 2, C_SIGN_INIT = 42, C_SIGN = 43 };

// function_list returns the function list of the library at path, which is loaded already; NULL: there is none.
static list_t *function_list(const char *path)
{
	void *handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	list_t *list = NULL;
	if (handle == NULL)
		return NULL;
	ulong_t (*get)(list_t **) = (ulong_t (*)(list_t **))dlsym(handle, "C_GetFunctionList");
	if (get == NULL || get(&list) != 0)
		list = NULL;
	dlclose(handle); // the library stays: it was loaded before
	return list;
}

// get_info is C_GetInfo, whose answer (CK_INFO, 80 bytes) is not needed.
static ulong_t get_info(list_t *list)
{
	ulong_t info[32];
	return ((ulong_t (*)(void *))list->functions[C_GET_INFO])(info);
}

// sign_init is C_SignInit with a mechanism that has no parameter.
static ulong_t sign_init(list_t *list, ulong_t session, ulong_t mechanism, ulong_t key)
{
	mechanism_t m = { mechanism, NULL, 0 };
	return ((ulong_t (*)(ulong_t, mechanism_t *, ulong_t))list->functions[C_SIGN_INIT])(session, &m, key);
}

// sign is C_Sign of 32 bytes. What the device writes beyond 64 bytes is an error of its own (CKR_BUFFER_TOO_SMALL).
static ulong_t sign(list_t *list, ulong_t session, unsigned char *digest, unsigned char *signature, ulong_t *length)
{
	*length = 64;
	return ((ulong_t (*)(ulong_t, unsigned char *, ulong_t, unsigned char *, ulong_t *))list->functions[C_SIGN])(
		session, digest, 32, signature, length);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/keyward/keyward/backends"
	p11 "github.com/miekg/pkcs11"
)

// functions are a module's own. Package p11 asks C_Sign for the length before each signature, which a device
// behind a network may answer with a round trip; here the length is known.
type functions struct{ list *C.list_t }

// findFunctions returns the functions of the module at path, which is loaded.
func findFunctions(path string) (functions, error) {
	name := append([]byte(path), 0)
	list := C.function_list((*C.char)(unsafe.Pointer(&name[0])))
	if list == nil {
		return functions{}, fmt.Errorf("module %q has no C_GetFunctionList", path)
	}
	return functions{list}, nil
}

// live reports whether the functions are those of the instance that package p11 has initialized. A module may make
// another instance of itself for each call of C_GetFunctionList, as p11-kit's client and proxy do.
func (f functions) live() bool {
	return C.get_info(f.list) != p11.CKR_CRYPTOKI_NOT_INITIALIZED
}

// errInstances: wrapped keys need calls that package p11 has not.
var errInstances = errors.New("the module makes another instance of itself for each call of C_GetFunctionList, as " +
	"p11-kit's client does, " +
	"and the template inside a key's template can't be reached through it: use the token's own module for wrapped keys")

// errLeft: the call has ended before its turn came, and C_Sign was not called.
var errLeft = errors.New("nobody waits for the signature any more")

// signDigest returns what CKM_ECDSA makes of digest, and how many bytes that is. Errors are errLeft or a [p11.Error].
// From C_Sign on, whatever it returns, a signature may exist: modules for high availability repeat it inside.
func (f functions) signDigest(s p11Session, key p11.ObjectHandle, digest [32]byte,
	sending *backends.Sending) (signature [64]byte, n int, err error) {
	if rv := C.sign_init(f.list, C.ulong_t(s), p11.CKM_ECDSA, C.ulong_t(key)); rv != p11.CKR_OK {
		return signature, 0, p11.Error(rv)
	}
	if !sending.Begin() {
		return signature, 0, errLeft
	}
	length := C.ulong_t(len(signature))
	if rv := C.sign(f.list, C.ulong_t(s), (*C.uchar)(&digest[0]), (*C.uchar)(&signature[0]), &length); rv != p11.CKR_OK {
		return signature, 0, p11.Error(rv)
	}
	return signature, int(length), nil
}

// signByPackage is signDigest by package p11, for a module whose own functions are another instance's.
func (m *module) signByPackage(s p11Session, key p11.ObjectHandle, digest [32]byte,
	sending *backends.Sending) (signature [64]byte, n int, err error) {
	if err := m.SignInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}, key); err != nil {
		return signature, 0, err
	}
	if !sending.Begin() {
		return signature, 0, errLeft
	}
	raw, err := m.Sign(s, digest[:])
	copy(signature[:], raw)
	return signature, len(raw), err
}
