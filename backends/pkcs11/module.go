package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/keyward/keyward/backends"
	p11 "github.com/miekg/pkcs11"
)

// module is a PKCS#11 library that one Backend has to itself.
type module struct {
	*p11.Ctx
	functions
	path string
	env  map[string]string

	// Used with all lanes held.
	initialized bool // by us
	instances   bool // functions are another instance's, which is not initialized: only Ctx reaches the token
	released    bool
	base        *p11Session // stays open while the token is logged in, which may end when the last one closes; nil: none
}

// process is what all modules of a process share, whether they know it or not.
var process = struct {
	mu     sync.Mutex
	loaded map[string]*p11.Ctx // by path; never unloaded: libraries leave exit handlers and threads behind
	inUse  map[string]bool     // by path
	env    map[string]envUse   // variables that modules in use were promised
}{
	loaded: map[string]*p11.Ctx{},
	inUse:  map[string]bool{},
	env:    map[string]envUse{},
}

type envUse struct {
	value string
	users int
}

// acquireModule loads the library at path, unless it is loaded, and sets env for it.
// The module is the caller's alone until release.
func acquireModule(path string, env map[string]string) (*module, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("module %q: give its absolute path", path)
	}
	real, err := filepath.EvalSymlinks(path) // dlopen knows a library by its file, not its name
	if err != nil {
		return nil, fmt.Errorf("module: %w", err)
	}
	process.mu.Lock()
	defer process.mu.Unlock()
	if process.inUse[real] {
		return nil, fmt.Errorf("module %q is used by another backend of this process; a module serves one token at a time",
			path)
	}
	for name, value := range env {
		if use, ok := process.env[name]; ok && use.value != value {
			return nil, fmt.Errorf("module %q needs %s=%q, and another backend of this process needs %q", path, name, value,
				use.value)
		}
	}
	m := &module{Ctx: process.loaded[real], path: real, env: env}
	if err := m.setEnv(); err != nil { // before loading: some read it then
		return nil, err
	}
	process.inUse[real] = true
	if err := m.load(path); err != nil {
		m.releaseLocked()
		return nil, err
	}
	return m, nil
}

// load loads the library, which errors name as path, unless it is loaded. process.mu is held.
func (m *module) load(path string) (err error) {
	if m.Ctx == nil {
		if m.Ctx = p11.New(m.path); m.Ctx == nil {
			return fmt.Errorf("module %q can't be loaded: it is no PKCS#11 module for this machine, or a library that it "+
				"needs is missing (see: ldd %s)", path, path)
		}
		process.loaded[m.path] = m.Ctx
	}
	m.functions, err = findFunctions(m.path)
	return err
}

// setEnv promises and sets m's variables. process.mu is held. With cgo, os.Setenv also sets
// the environment that C code reads.
func (m *module) setEnv() error {
	for name, value := range m.env {
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("setting %s for module %q: %w", name, m.path, err)
		}
	}
	for name, value := range m.env {
		process.env[name] = envUse{value, process.env[name].users + 1}
	}
	return nil
}

// release lets another Backend have the module. Variables stay set, but may be changed.
func (m *module) release() {
	process.mu.Lock()
	defer process.mu.Unlock()
	m.releaseLocked()
}

// releaseLocked is release with process.mu held.
func (m *module) releaseLocked() {
	m.released = true
	delete(process.inUse, m.path)
	for name, value := range m.env {
		if n := process.env[name].users - 1; n > 0 {
			process.env[name] = envUse{value, n}
		} else {
			delete(process.env, name)
		}
	}
}

// initialize calls C_Initialize. The caller holds all lanes.
func (m *module) initialize() error {
	if err := m.Initialize(); err != nil {
		return fmt.Errorf("initializing module: %w", err)
	}
	m.initialized = true
	m.instances = !m.live()
	return nil
}

// signDigest is [functions.signDigest], by package p11 if need be.
func (m *module) signDigest(s p11Session, key p11.ObjectHandle, digest [32]byte,
	sending *backends.Sending) (signature [64]byte, n int, err error) {
	if m.instances {
		return m.signByPackage(s, key, digest, sending)
	}
	return m.functions.signDigest(s, key, digest, sending)
}

// finalize logs out and undoes initialize. The caller holds all lanes: a call in the module now would crash the
// process.
func (m *module) finalize() error {
	if !m.initialized {
		return nil
	}
	m.initialized = false
	logout := m.logout()
	err := m.Finalize()
	if err != nil && !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED)) {
		return errors.Join(logout, fmt.Errorf("finalizing module: %w", err))
	}
	return logout
}

// logout logs out, since a module that is a stub of one in another process does not when it is finalized. The
// error says that the token may be logged in still.
func (m *module) logout() error {
	if m.base == nil {
		return nil
	}
	s := *m.base
	m.base = nil
	err := m.Logout(s)
	var rv p11.Error
	errors.As(err, &rv)
	switch rv {
	case p11.CKR_OK, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED,
		p11.CKR_CRYPTOKI_NOT_INITIALIZED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_DEVICE_REMOVED:
		return nil // there is no login
	}
	return fmt.Errorf("the token may be logged in still: %w", err)
}
