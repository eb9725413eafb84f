package pkcs11

/*
#include <stdlib.h>

typedef unsigned long ulong_t; // CK_ULONG

typedef struct {
	ulong_t type;
	void *value;
	ulong_t length;
} attribute_t; // CK_ATTRIBUTE

typedef struct {
	ulong_t mechanism;
	void *parameter;
	ulong_t length;
} mechanism_t;

typedef struct {
	unsigned char major, minor;
	void (*functions[68])(void);
} list_t; // as in csign.go

enum { C_GET_ATTRIBUTE_VALUE = 24, C_GENERATE_KEY = 58 };

static ulong_t get_attribute(void *list, ulong_t session, ulong_t object, attribute_t *attribute)
{
	return ((ulong_t (*)(ulong_t, ulong_t, attribute_t *, ulong_t))((list_t *)list)->functions[C_GET_ATTRIBUTE_VALUE])(
		session, object, attribute, 1);
}

static ulong_t generate_key(void *list, ulong_t session, ulong_t mechanism, attribute_t *attributes, ulong_t count, ulong_t *key)
{
	mechanism_t m = { mechanism, NULL, 0 };
	return ((ulong_t (*)(ulong_t, mechanism_t *, attribute_t *, ulong_t, ulong_t *))((list_t *)list)->functions[C_GENERATE_KEY])(
		session, &m, attributes, count, key);
}
*/
import "C"

import (
	"fmt"
	"unsafe"

	p11 "github.com/miekg/pkcs11"
)

// Package p11 takes no attribute whose value is a list of attributes, so what reads and sets CKA_UNWRAP_TEMPLATE is
// here.

const (
	maxTemplate   = 64   // attributes in a template that is read
	maxInTemplate = 1024 // bytes of each
)

// arena is C memory that free gives back.
type arena []unsafe.Pointer

func (a *arena) alloc(size int) unsafe.Pointer {
	p := C.calloc(1, C.size_t(max(size, 1))) // ends the process rather than return NULL
	*a = append(*a, p)
	return p
}

func (a *arena) free() {
	for _, p := range *a {
		C.free(p)
	}
}

// attributes copies a template to C memory.
func (a *arena) attributes(template []*p11.Attribute) (*C.attribute_t, C.ulong_t) {
	n := len(template)
	list := (*C.attribute_t)(a.alloc(n * int(unsafe.Sizeof(C.attribute_t{}))))
	for i, attr := range unsafe.Slice(list, n) {
		value := a.alloc(len(template[i].Value))
		copy(unsafe.Slice((*byte)(value), len(template[i].Value)), template[i].Value)
		attr._type, attr.value, attr.length = C.ulong_t(template[i].Type), value, C.ulong_t(len(template[i].Value))
		unsafe.Slice(list, n)[i] = attr
	}
	return list, C.ulong_t(n)
}

// generateKEK is C_GenerateKey of an AES key with that CKA_UNWRAP_TEMPLATE.
func (f functions) generateKEK(s p11Session, template, unwrap []*p11.Attribute) (p11.ObjectHandle, error) {
	var a arena
	defer a.free()
	nested, n := a.attributes(unwrap)
	list, count := a.attributes(append(template, &p11.Attribute{Type: p11.CKA_UNWRAP_TEMPLATE}))
	last := &unsafe.Slice(list, int(count))[count-1]
	last.value, last.length = unsafe.Pointer(nested), n*C.ulong_t(unsafe.Sizeof(C.attribute_t{}))
	var key C.ulong_t
	if rv := C.generate_key(unsafe.Pointer(f.list), C.ulong_t(s), p11.CKM_AES_KEY_GEN, list, count,
		&key); rv != p11.CKR_OK {
		return 0, p11.Error(rv)
	}
	return p11.ObjectHandle(key), nil
}

// unwrapTemplate reads CKA_UNWRAP_TEMPLATE: its length, then the lengths of its attributes, then their values (PKCS
// #11 v2.40, C_GetAttributeValue). No attributes: the key has no such template.
func (f functions) unwrapTemplate(s p11Session, key p11.ObjectHandle) ([]*p11.Attribute, error) {
	var a arena
	defer a.free()
	outer := (*C.attribute_t)(a.alloc(int(unsafe.Sizeof(C.attribute_t{}))))
	outer._type = p11.CKA_UNWRAP_TEMPLATE
	get := func() error {
		if rv := C.get_attribute(unsafe.Pointer(f.list), C.ulong_t(s), C.ulong_t(key), outer); rv != p11.CKR_OK {
			return p11.Error(rv)
		}
		return nil
	}
	if err := get(); err != nil {
		return nil, err
	}
	size := C.ulong_t(unsafe.Sizeof(C.attribute_t{}))
	n := outer.length / size
	if outer.length == 0 {
		return nil, nil
	}
	if n > maxTemplate || outer.length%size != 0 {
		return nil, fmt.Errorf("a template of %d bytes", uint64(outer.length))
	}
	nested := (*C.attribute_t)(a.alloc(int(outer.length)))
	outer.value = unsafe.Pointer(nested)
	if err := get(); err != nil {
		return nil, err
	}
	list := unsafe.Slice(nested, int(n))
	for i := range list {
		if list[i].length > maxInTemplate {
			return nil, fmt.Errorf("attribute 0x%x of the template has %d bytes", uint64(list[i]._type), uint64(list[i].length))
		}
		list[i].value = a.alloc(int(list[i].length))
	}
	if err := get(); err != nil {
		return nil, err
	}
	var template []*p11.Attribute
	for _, attr := range list {
		template = append(template, &p11.Attribute{Type: uint(attr._type),
			Value: C.GoBytes(attr.value, C.int(min(attr.length, maxInTemplate)))})
	}
	return template, nil
}
