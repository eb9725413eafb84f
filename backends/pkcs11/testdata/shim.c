/*
 * A PKCS#11 module that stands before another one and misbehaves to order.
 *
 * SHIM_MODULE names the module behind it. SHIM_CONTROL names a file of at least
 * sizeof(struct control) bytes, which the test maps too: what it stores there
 * takes effect with the next call. shim_test.go has the same fields.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "pkcs11go.h"

typedef _Atomic uint64_t word;

struct control {
	word sign_rv, sign_times;         /* C_Sign returns this, for so many calls */
	word sign_flip;                   /* if 1, a bit of each signature is flipped */
	word sign_hang, hanging, release; /* so many C_Sign hang, until release is 1 */
	word login_rv, login_times;
	word generate_lose;               /* so many C_GenerateKeyPair work and then report DEVICE_ERROR */
	word generate_hang;               /* so many C_GenerateKeyPair work and then hang, until release is 1 */
	word destroy_lose;                /* so many C_DestroyObject work and then report DEVICE_ERROR */
	word find_rv, find_times;         /* C_FindObjectsInit */
	word extractable;                 /* if 1, CKA_EXTRACTABLE reads as true */
	word flags;                       /* added to the token's flags */
	word initialize_rv;
	word sign_calls, login_calls, initialize_calls; /* counted here */
	word busy;                        /* calls in flight now */
	word overlaps;                    /* C_Finalize with calls in flight */
};

static CK_FUNCTION_LIST *real, list;
static struct control *ctl;

/* take counts n down by one, and says whether there was something left. */
static int take(word *n)
{
	uint64_t v = *n;
	while (v > 0)
		if (__atomic_compare_exchange_n((uint64_t *)n, &v, v - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return 1;
	return 0;
}

static void hang(void)
{
	const struct timespec ms = {0, 1000000};
	ctl->hanging++;
	while (!ctl->release)
		nanosleep(&ms, NULL);
	ctl->hanging--;
}

static CK_RV my_Initialize(CK_VOID_PTR args)
{
	int fd = open(getenv("SHIM_CONTROL"), O_RDWR);
	if (fd < 0)
		return CKR_FUNCTION_FAILED;
	ctl = mmap(NULL, sizeof *ctl, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (ctl == MAP_FAILED)
		return CKR_HOST_MEMORY;
	ctl->initialize_calls++;
	return ctl->initialize_rv ? ctl->initialize_rv : real->C_Initialize(args);
}

static CK_RV my_Finalize(CK_VOID_PTR reserved)
{
	if (ctl->busy > 0)
		ctl->overlaps++;
	return real->C_Finalize(reserved);
}

static CK_RV my_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
	CK_RV rv = real->C_GetTokenInfo(slot, info);
	info->flags |= ctl->flags;
	return rv;
}

static CK_RV my_Login(CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG len)
{
	ctl->login_calls++;
	if (take(&ctl->login_times))
		return ctl->login_rv;
	return real->C_Login(s, user, pin, len);
}

static CK_RV my_SignInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	ctl->busy++;
	CK_RV rv = real->C_SignInit(s, m, key);
	ctl->busy--;
	return rv;
}

static CK_RV my_Sign(CK_SESSION_HANDLE s, CK_BYTE_PTR data, CK_ULONG n, CK_BYTE_PTR sig, CK_ULONG_PTR len)
{
	if (sig == NULL) /* only asks for the length */
		return real->C_Sign(s, data, n, sig, len);
	ctl->busy++;
	ctl->sign_calls++;
	if (take(&ctl->sign_hang))
		hang();
	CK_RV rv = take(&ctl->sign_times) ? ctl->sign_rv : real->C_Sign(s, data, n, sig, len);
	if (rv == CKR_OK && ctl->sign_flip)
		sig[*len / 3] ^= 1;
	ctl->busy--;
	return rv;
}

static CK_RV my_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub,
				CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR hpub, CK_OBJECT_HANDLE_PTR hpriv)
{
	ctl->busy++;
	CK_RV rv = real->C_GenerateKeyPair(s, m, pub, npub, priv, npriv, hpub, hpriv);
	if (take(&ctl->generate_hang))
		hang();
	if (take(&ctl->generate_lose))
		rv = CKR_DEVICE_ERROR;
	ctl->busy--;
	return rv;
}

static CK_RV my_DestroyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_RV rv = real->C_DestroyObject(s, o);
	return take(&ctl->destroy_lose) ? CKR_DEVICE_ERROR : rv;
}

static CK_RV my_FindObjectsInit(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
	return take(&ctl->find_times) ? ctl->find_rv : real->C_FindObjectsInit(s, a, n);
}

static CK_RV my_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
	CK_RV rv = real->C_GetAttributeValue(s, o, a, n);
	for (CK_ULONG i = 0; rv == CKR_OK && ctl->extractable && i < n; i++)
		if (a[i].type == CKA_EXTRACTABLE && a[i].pValue != NULL)
			*(CK_BBOOL *)a[i].pValue = CK_TRUE;
	return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	void *lib = dlopen(getenv("SHIM_MODULE"), RTLD_NOW);
	CK_C_GetFunctionList get = lib ? (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList") : NULL;
	if (get == NULL || get(&real) != CKR_OK)
		return CKR_GENERAL_ERROR;
	list = *real;
	list.C_Initialize = my_Initialize;
	list.C_Finalize = my_Finalize;
	list.C_GetTokenInfo = my_GetTokenInfo;
	list.C_Login = my_Login;
	list.C_SignInit = my_SignInit;
	list.C_Sign = my_Sign;
	list.C_GenerateKeyPair = my_GenerateKeyPair;
	list.C_DestroyObject = my_DestroyObject;
	list.C_FindObjectsInit = my_FindObjectsInit;
	list.C_GetAttributeValue = my_GetAttributeValue;
	*out = &list;
	return CKR_OK;
}
