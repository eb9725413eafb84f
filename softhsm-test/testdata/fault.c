/*
 * A PKCS#11 module that stands before another one and misbehaves to order.
 *
 * FAULT_MODULE names the module behind it. FAULT_CONTROL names a file of at least sizeof(struct control)
 * bytes, which the test maps too: what it stores there takes effect with the next call, in whatever process the
 * module is. fault.go has the same fields.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pkcs11go.h"

/* FUNCTIONS is all of PKCS #11 v2.40 but C_GetFunctionList. fault.go reads the names here. */
#define FUNCTIONS(F) \
	F(Initialize, (CK_VOID_PTR a), (a)) \
	F(Finalize, (CK_VOID_PTR a), (a)) \
	F(GetInfo, (CK_INFO_PTR a), (a)) \
	F(GetSlotList, (CK_BBOOL a, CK_SLOT_ID_PTR b, CK_ULONG_PTR c), (a, b, c)) \
	F(GetSlotInfo, (CK_SLOT_ID a, CK_SLOT_INFO_PTR b), (a, b)) \
	F(GetTokenInfo, (CK_SLOT_ID a, CK_TOKEN_INFO_PTR b), (a, b)) \
	F(GetMechanismList, (CK_SLOT_ID a, CK_MECHANISM_TYPE_PTR b, CK_ULONG_PTR c), (a, b, c)) \
	F(GetMechanismInfo, (CK_SLOT_ID a, CK_MECHANISM_TYPE b, CK_MECHANISM_INFO_PTR c), (a, b, c)) \
	F(InitToken, (CK_SLOT_ID a, CK_UTF8CHAR_PTR b, CK_ULONG c, CK_UTF8CHAR_PTR d), (a, b, c, d)) \
	F(InitPIN, (CK_SESSION_HANDLE a, CK_UTF8CHAR_PTR b, CK_ULONG c), (a, b, c)) \
	F(SetPIN, (CK_SESSION_HANDLE a, CK_UTF8CHAR_PTR b, CK_ULONG c, CK_UTF8CHAR_PTR d, CK_ULONG e), (a, b, \
		c, d, e)) \
	F(OpenSession, (CK_SLOT_ID a, CK_FLAGS b, CK_VOID_PTR c, CK_NOTIFY d, CK_SESSION_HANDLE_PTR e), (a, b, \
		c, d, e)) \
	F(CloseSession, (CK_SESSION_HANDLE a), (a)) \
	F(CloseAllSessions, (CK_SLOT_ID a), (a)) \
	F(GetSessionInfo, (CK_SESSION_HANDLE a, CK_SESSION_INFO_PTR b), (a, b)) \
	F(GetOperationState, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG_PTR c), (a, b, c)) \
	F(SetOperationState, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_OBJECT_HANDLE d, \
		CK_OBJECT_HANDLE e), (a, b, c, d, e)) \
	F(Login, (CK_SESSION_HANDLE a, CK_USER_TYPE b, CK_UTF8CHAR_PTR c, CK_ULONG d), (a, b, c, d)) \
	F(Logout, (CK_SESSION_HANDLE a), (a)) \
	F(CreateObject, (CK_SESSION_HANDLE a, CK_ATTRIBUTE_PTR b, CK_ULONG c, CK_OBJECT_HANDLE_PTR d), (a, b, c, d)) \
	F(CopyObject, (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b, CK_ATTRIBUTE_PTR c, CK_ULONG d, \
		CK_OBJECT_HANDLE_PTR e), (a, b, c, d, e)) \
	F(DestroyObject, (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b), (a, b)) \
	F(GetObjectSize, (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b, CK_ULONG_PTR c), (a, b, c)) \
	F(GetAttributeValue, (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b, CK_ATTRIBUTE_PTR c, CK_ULONG d), (a, b, c, d)) \
	F(SetAttributeValue, (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b, CK_ATTRIBUTE_PTR c, CK_ULONG d), (a, b, c, d)) \
	F(FindObjectsInit, (CK_SESSION_HANDLE a, CK_ATTRIBUTE_PTR b, CK_ULONG c), (a, b, c)) \
	F(FindObjects, (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE_PTR b, CK_ULONG c, CK_ULONG_PTR d), (a, b, c, d)) \
	F(FindObjectsFinal, (CK_SESSION_HANDLE a), (a)) \
	F(EncryptInit, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c), (a, b, c)) \
	F(Encrypt, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), (a, b, c, d, e)) \
	F(EncryptUpdate, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), (a, \
		b, c, d, e)) \
	F(EncryptFinal, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG_PTR c), (a, b, c)) \
	F(DecryptInit, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c), (a, b, c)) \
	F(Decrypt, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), (a, b, c, d, e)) \
	F(DecryptUpdate, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), (a, \
		b, c, d, e)) \
	F(DecryptFinal, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG_PTR c), (a, b, c)) \
	F(DigestInit, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b), (a, b)) \
	F(Digest, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), (a, b, c, d, e)) \
	F(DigestUpdate, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c), (a, b, c)) \
	F(DigestKey, (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b), (a, b)) \
	F(DigestFinal, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG_PTR c), (a, b, c)) \
	F(SignInit, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c), (a, b, c)) \
	F(Sign, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), (a, b, c, d, e)) \
	F(SignUpdate, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c), (a, b, c)) \
	F(SignFinal, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG_PTR c), (a, b, c)) \
	F(SignRecoverInit, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c), (a, b, c)) \
	F(SignRecover, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), (a, b, \
		c, d, e)) \
	F(VerifyInit, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c), (a, b, c)) \
	F(Verify, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG e), (a, b, c, d, e)) \
	F(VerifyUpdate, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c), (a, b, c)) \
	F(VerifyFinal, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c), (a, b, c)) \
	F(VerifyRecoverInit, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c), (a, b, c)) \
	F(VerifyRecover, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), (a, \
		b, c, d, e)) \
	F(DigestEncryptUpdate, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), \
		(a, b, c, d, e)) \
	F(DecryptDigestUpdate, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), \
		(a, b, c, d, e)) \
	F(SignEncryptUpdate, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), \
		(a, b, c, d, e)) \
	F(DecryptVerifyUpdate, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c, CK_BYTE_PTR d, CK_ULONG_PTR e), \
		(a, b, c, d, e)) \
	F(GenerateKey, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_ATTRIBUTE_PTR c, CK_ULONG d, \
		CK_OBJECT_HANDLE_PTR e), (a, b, c, d, e)) \
	F(GenerateKeyPair, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_ATTRIBUTE_PTR c, CK_ULONG d, \
		CK_ATTRIBUTE_PTR e, CK_ULONG f, CK_OBJECT_HANDLE_PTR g, CK_OBJECT_HANDLE_PTR h), (a, b, c, d, e, f, g, h)) \
	F(WrapKey, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c, CK_OBJECT_HANDLE d, \
		CK_BYTE_PTR e, CK_ULONG_PTR f), (a, b, c, d, e, f)) \
	F(UnwrapKey, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c, CK_BYTE_PTR d, CK_ULONG e, \
		CK_ATTRIBUTE_PTR f, CK_ULONG g, CK_OBJECT_HANDLE_PTR h), (a, b, c, d, e, f, g, h)) \
	F(DeriveKey, (CK_SESSION_HANDLE a, CK_MECHANISM_PTR b, CK_OBJECT_HANDLE c, CK_ATTRIBUTE_PTR d, \
		CK_ULONG e, CK_OBJECT_HANDLE_PTR f), (a, b, c, d, e, f)) \
	F(SeedRandom, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c), (a, b, c)) \
	F(GenerateRandom, (CK_SESSION_HANDLE a, CK_BYTE_PTR b, CK_ULONG c), (a, b, c)) \
	F(GetFunctionStatus, (CK_SESSION_HANDLE a), (a)) \
	F(CancelFunction, (CK_SESSION_HANDLE a), (a)) \
	F(WaitForSlotEvent, (CK_FLAGS a, CK_SLOT_ID_PTR b, CK_VOID_PTR c), (a, b, c))

typedef _Atomic uint64_t word;

/* What befalls a function, for so many calls after the first ones that are let pass. */
struct fault {
	word kind, rv, pass, times;
	word calls; /* counted here */
};

enum {
	RETURN,     /* the call is not made; rv is its answer */
	LOSE,       /* the call is made, and its answer is rv */
	HANG,       /* until released; then rv is the answer, or if that is 0 the call is made */
	HANG_AFTER, /* the call is made, and then it hangs */
	DELAY,      /* for rv milliseconds */
	ABORT,
	SEGFAULT,
	CLOSE,      /* all descriptors but the standard ones are closed, whoever's they are */
	INTRUDE,    /* what is forbidden is tried before the call */
};

enum {
#define F(name, params, args) AT_##name,
	FUNCTIONS(F)
#undef F
	COUNT
};

struct control {
	word release, hanging; /* hanging calls end once release is 1 */
	word busy;             /* calls in flight now */
	word overlaps;         /* C_Finalize with calls in flight */
	word sign_flip;        /* if 1, a bit of each signature is flipped */
	word sign_short;       /* so many bytes are missing from each signature */
	word lie;              /* the attribute of that number reads as the opposite; 0: none */
	word flags, no_flags;  /* added to the token's flags, and taken away */
	word max_sessions;     /* open at a time; 0: any */
	word sessions;         /* open now, as far as C_CloseSession tells */
	word keep_login;       /* if 1, C_Finalize does not log out: the module is a stub of one in another process */
	word logged_in;
	word refuse_usage;     /* if 1, C_GenerateKeyPair takes no SIGN_RECOVER, VERIFY_RECOVER, ENCRYPT, DECRYPT, WRAP, UNWRAP */
	word intruded, tried;  /* by INTRUDE: a bit of each try that succeeded, and the number of tries */
	word text;             /* if 1, the next 4 replace what C_GetTokenInfo says */
	unsigned char label[32], serial[16];
	struct fault of[COUNT];
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

static void wait_ms(uint64_t n)
{
	const struct timespec t = {n / 1000, n % 1000 * 1000000};
	nanosleep(&t, NULL);
}

static void hang(void)
{
	ctl->hanging++;
	while (!ctl->release)
		wait_ms(1);
	ctl->hanging--;
}

/* begin counts a call, and says which fault befalls it; NULL: none. */
static struct fault *begin(int at)
{
	struct fault *f = &ctl->of[at];
	f->calls++;
	return take(&f->pass) || !take(&f->times) ? NULL : f;
}

/* executes says whether the program can be started. The new process ends without it. */
static int executes(const char *program)
{
	int status;
	pid_t pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) {
		char *const none[] = {NULL};
		execve(program, none, none);
		_exit(1);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* intrude tries what a library has no business with. FAULT_FILES names files to be opened for writing, by spaces. */
static void intrude(void)
{
	uint64_t n = 0, did = 0;
	char files[4096] = "", *rest;
	strncat(files, getenv("FAULT_FILES") ? getenv("FAULT_FILES") : "", sizeof files - 1);
#define TRY(ok) (did |= (uint64_t)((ok) != 0) << n++)
	for (char *name = strtok_r(files, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
		int fd = open(name, O_WRONLY | O_CREAT, 0600);
		TRY(fd >= 0);
		if (fd >= 0)
			close(fd);
	}
	TRY(executes("/bin/true"));
	TRY(kill(1, 0) == 0);
	TRY(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1) >= 0);
	TRY(syscall(SYS_userfaultfd, 1) >= 0);
	TRY(socket(AF_PACKET, SOCK_RAW, 0) >= 0);
	/* These would do harm. Root finds no such process or directory, unless it is refused before. */
	TRY(ptrace(PTRACE_SEIZE, INT_MAX, NULL, NULL) == 0 || errno != EPERM);
	TRY(mount("none", "/nonexistent/directory", "tmpfs", 0, NULL) == 0 || errno != EPERM);
	TRY(syscall(SYS_bpf, -1, NULL, 0) >= 0 || errno != EPERM);
	TRY(syscall(SYS_unshare, 0) == 0);
#undef TRY
	ctl->intruded = did;
	ctl->tried = n;
}

/* before does what comes before the call, and says whether there is no call: *rv is the answer then. */
static int before(struct fault *f, CK_RV *rv)
{
	if (f == NULL)
		return 0;
	*rv = f->rv;
	switch (f->kind) {
	case RETURN:
		return 1;
	case HANG:
		hang();
		return *rv != CKR_OK;
	case DELAY:
		wait_ms(f->rv);
		return 0;
	case ABORT:
		abort();
	case SEGFAULT:
		*(volatile int *)8 = 0;
		return 1;
	case INTRUDE:
		intrude();
		return 0;
	case CLOSE:
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
		return 0;
	}
	return 0;
}

/* after does what comes after the call, whose answer is rv. */
static CK_RV after(struct fault *f, CK_RV rv)
{
	if (f != NULL && f->kind == HANG_AFTER)
		hang();
	return f != NULL && f->kind == LOSE ? f->rv : rv;
}

#define F(name, params, args) \
	static CK_RV do_##name params \
	{ \
		struct fault *fault = begin(AT_##name); \
		CK_RV rv = CKR_OK; \
		ctl->busy++; \
		if (!before(fault, &rv)) \
			rv = after(fault, real->C_##name args); \
		ctl->busy--; \
		return rv; \
	}
FUNCTIONS(F)
#undef F

static int map_control(void)
{
	const char *name = getenv("FAULT_CONTROL");
	int fd = name ? open(name, O_RDWR) : -1;
	if (fd < 0)
		return 0;
	ctl = mmap(NULL, sizeof *ctl, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return ctl != MAP_FAILED;
}

static int kept; /* C_Finalize was not passed on */

static CK_RV my_Initialize(CK_VOID_PTR args)
{
	if (!map_control())
		return CKR_FUNCTION_FAILED;
	if (kept && ctl->keep_login) {
		ctl->of[AT_Initialize].calls++;
		return CKR_OK;
	}
	if (kept)
		real->C_Finalize(NULL);
	kept = 0;
	ctl->busy = ctl->sessions = ctl->hanging = ctl->logged_in = 0; /* a process that died left them */
	return do_Initialize(args);
}

static CK_RV my_Finalize(CK_VOID_PTR reserved)
{
	if (ctl->busy > 0)
		ctl->overlaps++;
	if (ctl->keep_login) {
		kept = 1;
		ctl->of[AT_Finalize].calls++;
		return CKR_OK;
	}
	ctl->sessions = ctl->logged_in = 0;
	return do_Finalize(reserved);
}

static CK_RV my_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
	CK_RV rv = do_GetTokenInfo(slot, info);
	info->flags = (info->flags | ctl->flags) & ~ctl->no_flags;
	if (ctl->text) {
		memcpy(info->label, ctl->label, sizeof info->label);
		memcpy(info->serialNumber, ctl->serial, sizeof info->serialNumber);
	}
	return rv;
}

static CK_RV my_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR p, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR s)
{
	if (ctl->max_sessions && ctl->sessions >= ctl->max_sessions)
		return CKR_SESSION_COUNT;
	CK_RV rv = do_OpenSession(slot, flags, p, notify, s);
	if (rv == CKR_OK)
		ctl->sessions++;
	return rv;
}

static CK_RV my_CloseSession(CK_SESSION_HANDLE s)
{
	CK_RV rv = do_CloseSession(s);
	if (rv == CKR_OK)
		ctl->sessions--;
	return rv;
}

static CK_RV my_Login(CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG len)
{
	CK_RV rv = do_Login(s, user, pin, len);
	if (rv == CKR_OK)
		ctl->logged_in = 1;
	return rv;
}

static CK_RV my_Logout(CK_SESSION_HANDLE s)
{
	CK_RV rv = do_Logout(s);
	if (rv == CKR_OK)
		ctl->logged_in = 0;
	return rv;
}

static CK_RV my_Sign(CK_SESSION_HANDLE s, CK_BYTE_PTR data, CK_ULONG n, CK_BYTE_PTR sig, CK_ULONG_PTR len)
{
	if (sig == NULL) /* only asks for the length */
		return real->C_Sign(s, data, n, sig, len);
	CK_RV rv = do_Sign(s, data, n, sig, len);
	if (rv == CKR_OK && ctl->sign_flip)
		sig[*len / 3] ^= 1;
	if (rv == CKR_OK)
		*len -= ctl->sign_short;
	return rv;
}

static int usage(CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
	for (CK_ULONG i = 0; i < n; i++)
		switch (a[i].type) {
		case CKA_SIGN_RECOVER: case CKA_VERIFY_RECOVER: case CKA_ENCRYPT: case CKA_DECRYPT: case CKA_WRAP: case CKA_UNWRAP:
			return 1;
		}
	return 0;
}

static CK_RV my_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub,
				CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR hpub, CK_OBJECT_HANDLE_PTR hpriv)
{
	if (ctl->refuse_usage && (usage(pub, npub) || usage(priv, npriv)))
		return CKR_ATTRIBUTE_TYPE_INVALID;
	return do_GenerateKeyPair(s, m, pub, npub, priv, npriv, hpub, hpriv);
}

static CK_RV my_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
	CK_RV rv = do_GetAttributeValue(s, o, a, n);
	for (CK_ULONG i = 0; rv == CKR_OK && ctl->lie && i < n; i++)
		if (a[i].type == ctl->lie && a[i].pValue != NULL)
			*(CK_BBOOL *)a[i].pValue = !*(CK_BBOOL *)a[i].pValue;
	return rv;
}

/* With FAULT_INSTANCES, each list but the first is that of another instance, which is never initialized, as p11-kit's client has it. */
static CK_FUNCTION_LIST another;
static int given;

#define F(name, params, args) \
	static CK_RV no_##name params \
	{ \
		return CKR_CRYPTOKI_NOT_INITIALIZED; \
	}
FUNCTIONS(F)
#undef F

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	if (given++ && getenv("FAULT_INSTANCES")) {
		another.version = list.version;
#define F(name, params, args) another.C_##name = no_##name;
		FUNCTIONS(F)
#undef F
		*out = &another;
		return CKR_OK;
	}
	const char *name = getenv("FAULT_MODULE");
	void *lib = name ? dlopen(name, RTLD_NOW) : NULL;
	CK_C_GetFunctionList get = lib ? (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList") : NULL;
	if (get == NULL || get(&real) != CKR_OK)
		return CKR_GENERAL_ERROR;
	list = *real;
#define F(name, params, args) list.C_##name = do_##name;
	FUNCTIONS(F)
#undef F
	list.C_Initialize = my_Initialize;
	list.C_Finalize = my_Finalize;
	list.C_GetTokenInfo = my_GetTokenInfo;
	list.C_OpenSession = my_OpenSession;
	list.C_CloseSession = my_CloseSession;
	list.C_Login = my_Login;
	list.C_Logout = my_Logout;
	list.C_Sign = my_Sign;
	list.C_GenerateKeyPair = my_GenerateKeyPair;
	list.C_GetAttributeValue = my_GetAttributeValue;
	*out = &list;
	return CKR_OK;
}
