// Package cardsim is a virtual smart card for tests: YubiKey applications in Go, behind the real
// pcscd and the real libpcsclite. Nothing that ships imports it.
//
//	backend under test ─ libpcsclite ─ unix socket ─ pcscd ─ vpcd driver ─ TCP ─ slot ─ Card ─ Applet
//
// [StartPCSCD] gives a test a pcscd of its own with two readers. [PCSCD.Insert] puts a [Card]
// into one, [PCSCD.Remove] takes it out. The Card parses commands, joins chained ones, cuts
// long answers, selects applets by AID, writes a log, and obeys a [Fault]. An [Applet]
// only sees whole commands: [PIV] is the one of a YubiKey 5.4.3 or 5.7.1.
//
// What it cannot prove: that a finger is needed, that USB behaves, that Yubico signed the attestation.
package cardsim
