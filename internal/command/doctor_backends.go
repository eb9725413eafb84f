package command

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/userdb"
)

// checkBackends looks at each backend: what the running agent says of it, its module and token, and where its PIN comes
// from.
func (x *examination) checkBackends() {
	for _, name := range slices.Sorted(maps.Keys(x.place.backends())) {
		b := x.place.backends()[name]
		if pin := b.PIN(); pin != nil {
			x.checkPIN(name, pin)
		}
		switch settings := b.Settings.(type) {
		case *config.PKCS11:
			x.checkToken(name, settings)
		case *config.Transit:
			x.checkTransitSecret(name, settings)
		case *config.PIV, *config.OpenPGP:
			x.checkCardReader(name)
		}
		x.checkBackendState(name)
	}
}

// checkBackendState repeats what the running agent says of a backend.
func (x *examination) checkBackendState(name string) {
	if x.status == nil {
		return
	}
	for _, b := range x.status.Backends {
		if b.Name != name {
			continue
		}
		switch b.State {
		case "ready":
			x.add("backend "+name, fine, "", "%s", joined(b.State, b.Detail))
		case "locked":
			x.add("backend "+name, wrong, "keyward unlock --backend "+name, "%s", joined(b.State, b.Detail))
		default:
			x.add("backend "+name, wrong, "keyward backend check "+name, "%s", joined(b.State, b.Detail))
		}
		return
	}
	x.add("backend "+name, warning, restartCommand(x.place.dirs.System()), "the running agent does not have it")
}

// checkToken looks for a PKCS#11 module and the token that the configuration names. It logs in nowhere.
func (x *examination) checkToken(name string, settings *config.PKCS11) {
	check := "token of " + name
	path := x.place.dirs.Path(settings.Module)
	if _, err := os.Stat(path); err != nil {
		do := "install the vendor's library, or correct module in [backends." + name + "]"
		if found, err := pkcs11.FindSoftHSMModule(); err == nil && strings.Contains(path, "softhsm") {
			do = fmt.Sprintf("set module = %q in [backends.%s]", found, name)
		} else if strings.Contains(path, "softhsm") {
			do = "apt install softhsm2"
		}
		x.add(check, wrong, do, "module: %v", err)
		return
	}
	if err := x.ownedByAgent(path); err != nil {
		x.addOwned(check, err)
		return
	}
	tokens, err := x.place.tokens(settings)
	if err != nil {
		x.add(check, wrong, "keyward backend list --tokens", "module %s: %v", path, err)
		return
	}
	var labels []string
	for _, t := range tokens {
		labels = append(labels, fmt.Sprintf("%q (serial %s)", t.Label, t.Serial))
		if settings.Token != "" && t.Label != settings.Token || settings.Serial != "" && t.Serial != settings.Serial {
			continue
		}
		x.judgeTries(check, name, t)
		return
	}
	if labels == nil {
		x.add(check, wrong, "connect the token, or initialize one with the vendor's tool",
			"module %s has no token that this user sees", path)
		return
	}
	x.add(check, wrong, "correct token or serial in [backends."+name+"]: keyward backend list --tokens",
		"there is no token %q; the module has %s", settings.Token+settings.Serial, strings.Join(labels, ", "))
}

// judgeTries judges what a token's flags say of its PIN.
func (x *examination) judgeTries(check, name string, t pkcs11.Token) {
	const reset = "reset the count with the vendor's tool and the security officer's PIN, as softhsm2-util or " +
		"pkcs11-tool --init-pin"
	switch {
	case slices.Contains(t.Flags, pkcs11.PINLocked):
		x.add(check, wrong, reset, "token %q: its PIN is locked after too many wrong tries", t.Label)
	case slices.Contains(t.Flags, pkcs11.PINFinalTry):
		x.add(check, wrong, reset, "token %q: one PIN try is left, which the agent never spends", t.Label)
	case slices.Contains(t.Flags, pkcs11.PINCountLow):
		x.add(check, wrong, "correct the PIN's source, then: keyward unlock --backend "+name,
			"token %q: a wrong PIN was tried; the agent does not log in by itself", t.Label)
	default:
		x.add(check, fine, "", "token %q, serial %s", t.Label, t.Serial)
	}
}

// checkPIN looks at where a PIN comes from, without reading it.
func (x *examination) checkPIN(name string, pin *config.PIN) {
	check := "PIN of " + name
	switch {
	case pin.File != "":
		x.checkSecretFile(check, x.place.dirs.Path(pin.File), "PIN", "pin_file")
	case pin.Credential != "":
		x.checkCredential(check, pin.Credential)
	case pin.Env != "":
		x.add(check, skipped, "", "in the agent's environment, in $%s", pin.Env)
	case pin.Prompt:
		x.add(check, fine, "", "the operator gives it: keyward unlock")
	}
}

// checkTransitSecret looks at where the secret of a login to Vault comes from, without reading it.
func (x *examination) checkTransitSecret(name string, settings *config.Transit) {
	check := "secret of " + name
	switch {
	case settings.SecretCredential != "":
		x.checkCredential(check, settings.SecretCredential)
	case settings.Auth == "kubernetes":
		x.add(check, skipped, "", "the service account's token, in %s", serviceAccountToken(x.place.dirs, settings))
	default:
		x.checkSecretFile(check, x.place.dirs.Path(settings.SecretFile), "secret", "secret_file")
	}
}

// checkSecretFile looks at the file of a PIN or another secret, which the key of the configuration names.
func (x *examination) checkSecretFile(check, path, what, key string) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.add(check, wrong, "write the "+what+" into that file, or correct "+key, "%s does not exist", path)
		return
	case err != nil:
		x.add(check, skipped, "sudo keyward doctor", "%v", err)
		return
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	agent := x.agentUID()
	switch {
	case info.Size() == 0:
		x.add(check, wrong, "write the "+what+" into that file", "%s is empty", path)
	case info.Mode().Perm()&0o077 != 0:
		x.add(check, wrong, "chmod 0600 "+path, "%s can be read by others (mode %04o)", path, info.Mode().Perm())
	case owner != agent && agent != 0:
		x.add(check, wrong, fmt.Sprintf("chown %s %s", userdb.User(agent), path),
			"%s belongs to %s, and the agent runs as %s", path, userdb.User(owner), userdb.User(agent))
	default:
		x.add(check, fine, "", "in %s", path)
	}
}

// agentUID is the user whom the state belongs to; without one, the user of this process.
func (x *examination) agentUID() uint32 {
	if info, err := os.Stat(x.place.dirs.State); err == nil {
		return info.Sys().(*syscall.Stat_t).Uid
	}
	return uint32(os.Geteuid())
}

// credentialStores are where systemd looks for credentials (systemd.exec(5), LoadCredentialEncrypted=).
var credentialStores = []string{"/etc/credstore.encrypted", "/run/credstore.encrypted", "/usr/lib/credstore.encrypted",
	"/etc/credstore", "/run/credstore", "/usr/lib/credstore"}

func (x *examination) checkCredential(check, name string) {
	for _, store := range credentialStores {
		path := filepath.Join(store, name)
		_, err := os.Stat(path)
		switch {
		case err == nil:
			x.add(check, fine, "", "systemd credential in %s", path)
			return
		case errors.Is(err, fs.ErrPermission):
			x.add(check, skipped, "sudo keyward doctor", "%v", err)
			return
		}
	}
	x.add(check, warning, fmt.Sprintf("systemd-ask-password -n | systemd-creds encrypt --name=%s - "+
		"/etc/credstore.encrypted/%s", name, name),
		"no credential %q in %s; the unit may have it from elsewhere", name, credentialStores[0])
}

// checkCardReader says whether pcscd answers.
func (x *examination) checkCardReader(name string) {
	path := "/run/pcscd/pcscd.comm"
	if other := os.Getenv("PCSCLITE_CSOCK_NAME"); other != "" {
		path = other
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	if err != nil {
		x.add("card reader of "+name, wrong, "apt install pcscd; systemctl enable --now pcscd.socket", "pcscd: %v", err)
		return
	}
	_ = conn.Close()
	x.add("card reader of "+name, fine, "", "pcscd listens on %s", path)
}

// checkChains asks the nodes of each chain that has some, and compares the clock with its newest block.
func (x *examination) checkChains() {
	for _, name := range slices.Sorted(maps.Keys(x.place.conf.Chains)) {
		conf := x.place.conf.Chains[name]
		if len(conf.RPC) == 0 {
			continue
		}
		r := inspectChain(x.c, name, conf)
		if r.Error != "" {
			x.add("chain "+name, wrong, "correct rpc in [chains."+name+"], or see to the node: keyward chain check "+name, "%s",
				r.Error)
			continue
		}
		x.add("chain "+name, fine, "", "chain id %d, block %d", r.ID, r.Block)
		x.judgeClock(name, time.Since(*r.BlockTime))
	}
}

// judgeClock compares this machine's clock with a block's time. A block that is old may also mean an idle chain or a
// node that has stopped.
func (x *examination) judgeClock(name string, offset time.Duration) {
	const do = "synchronize the clock: systemctl enable --now systemd-timesyncd, or chrony; or see to the chain's node"
	bound := x.place.conf.Watch.ClockBound
	offset = offset.Round(time.Second)
	switch {
	case bound == 0:
		x.add("clock of "+name, skipped, "", "clock_bound is 0s")
	case -offset > bound:
		x.add("clock of "+name, wrong, do, "this machine's clock is %v behind the newest block", -offset)
	case offset > bound:
		x.add("clock of "+name, warning, do, "the newest block is %v old: this machine's clock is ahead, or the node "+
			"stands still", offset)
	default:
		x.add("clock of "+name, fine, "", "%v after the newest block", offset)
	}
}
