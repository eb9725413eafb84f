// PC/SC is loaded when it is first needed, so that keyward starts on a machine without libpcsclite. The functions here
// stand for the library's own in the whole program, piv-go's calls included, so nothing links it.

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <winscard.h>

#include "load_linux.h"

// The names are those of winscard.h, whose macros SCARD_PCI_T0 and SCARD_PCI_T1 point to them.
PCSC_API const SCARD_IO_REQUEST g_rgSCardT0Pci = {SCARD_PROTOCOL_T0, sizeof(SCARD_IO_REQUEST)};
PCSC_API const SCARD_IO_REQUEST g_rgSCardT1Pci = {SCARD_PROTOCOL_T1, sizeof(SCARD_IO_REQUEST)};
PCSC_API const SCARD_IO_REQUEST g_rgSCardRawPci = {SCARD_PROTOCOL_RAW, sizeof(SCARD_IO_REQUEST)};

// symbol finds a function of the library, which is loaded then and stays; NULL: there is no such library yet.
static void *symbol(const char *name) {
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static void *library;
	pthread_mutex_lock(&lock);
	if (library == NULL)
		library = dlopen("libpcsclite.so.1", RTLD_NOW | RTLD_LOCAL);
	void *f = library == NULL ? NULL : dlsym(library, name);
	pthread_mutex_unlock(&lock);
	return f;
}

// CALL calls the library's function of that name.
#define CALL(name, type, ...)                                                                                              \
	LONG(*f) type = (LONG(*) type)symbol(name);                                                                            \
	return f == NULL ? KEYWARD_NO_LIBRARY : f(__VA_ARGS__)

LONG SCardEstablishContext(DWORD scope, LPCVOID r1, LPCVOID r2, LPSCARDCONTEXT c) {
	CALL("SCardEstablishContext", (DWORD, LPCVOID, LPCVOID, LPSCARDCONTEXT), scope, r1, r2, c);
}

LONG SCardReleaseContext(SCARDCONTEXT c) { CALL("SCardReleaseContext", (SCARDCONTEXT), c); }

LONG SCardListReaders(SCARDCONTEXT c, LPCSTR groups, LPSTR readers, LPDWORD n) {
	CALL("SCardListReaders", (SCARDCONTEXT, LPCSTR, LPSTR, LPDWORD), c, groups, readers, n);
}

LONG SCardGetStatusChange(SCARDCONTEXT c, DWORD timeout, SCARD_READERSTATE *states, DWORD n) {
	CALL("SCardGetStatusChange", (SCARDCONTEXT, DWORD, SCARD_READERSTATE *, DWORD), c, timeout, states, n);
}

LONG SCardConnect(SCARDCONTEXT c, LPCSTR reader, DWORD share, DWORD protocols, LPSCARDHANDLE h, LPDWORD protocol) {
	CALL("SCardConnect", (SCARDCONTEXT, LPCSTR, DWORD, DWORD, LPSCARDHANDLE, LPDWORD), c, reader, share, protocols, h, protocol);
}

LONG SCardDisconnect(SCARDHANDLE h, DWORD disposition) { CALL("SCardDisconnect", (SCARDHANDLE, DWORD), h, disposition); }

LONG SCardBeginTransaction(SCARDHANDLE h) { CALL("SCardBeginTransaction", (SCARDHANDLE), h); }

LONG SCardEndTransaction(SCARDHANDLE h, DWORD disposition) {
	CALL("SCardEndTransaction", (SCARDHANDLE, DWORD), h, disposition);
}

LONG SCardTransmit(SCARDHANDLE h, const SCARD_IO_REQUEST *pci, LPCBYTE in, DWORD n, SCARD_IO_REQUEST *got, LPBYTE out, LPDWORD m) {
	CALL("SCardTransmit", (SCARDHANDLE, const SCARD_IO_REQUEST *, LPCBYTE, DWORD, SCARD_IO_REQUEST *, LPBYTE, LPDWORD), h, pci, in, n, got,
	     out, m);
}
