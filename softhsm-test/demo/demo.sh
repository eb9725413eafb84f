#!/bin/sh
# make demo: an agent on a throw-away token, shown at work. Exits 0 only if every step
# ends as it should.
set -eu
cd "$(dirname "$0")/../.."
keyward=${KEYWARD:-bin/keyward}
export KEYWARD="$keyward"

work=$(mktemp -d /tmp/keyward-demo.XXXXXX)
KEYWARD_PID=
cleanup() {
	[ -z "$KEYWARD_PID" ] || kill "$KEYWARD_PID" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

step() { printf '\n%s\n' "$*"; }
indent() { sed 's/^/   /'; }
# show COMMAND...: its output, long lines cut. Not a pipe, so that its failure is ours.
show() {
	"$@" >"$work/out"
	cut -c1-150 "$work/out" | indent
}
fail() { echo "demo: $*" >&2; exit 1; }

token=0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA

# tx NONCE AMOUNT CONTRACT: a transaction that mints AMOUNT (one digit).
tx() {
	sed -e "s/\"nonce\": 0/\"nonce\": $1/" -e "/\"data\"/s/1\",/$2\",/" -e "s/$token/$3/" \
		softhsm-test/demo/tx.json >"$work/tx.json"
}

sign() { "$keyward" sign --dir "$KEYWARD_DIR" --session "$KEYWARD_SESSION" --tx "$work/tx.json"; }

# refused REASON: the transaction is refused as denied by policy, with that reason.
refused() {
	code=0
	sign >/dev/null 2>"$work/why" || code=$?
	fold -s -w 110 "$work/why" | indent
	[ $code = 3 ] || fail "exit code $code, want 3 (denied)"
	grep -q "$1" "$work/why" || fail "want the reason: $1"
}

sed "s/@EXPIRES_AT@/$(($(date +%s) + 86400))/" softhsm-test/demo/spec.json >"$work/spec.json"
step "1. An agent on a fresh SoftHSM token, and a session whose key was made in it"
softhsm-test/start-agent.sh --dir "$work/agent" --spec "$work/spec.json" \
	--account 0x1111111111111111111111111111111111111111 >"$work/env"
. "$work/env"
show "$keyward" session list --dir "$KEYWARD_DIR"
show "$keyward" key list --dir "$KEYWARD_DIR"

step "2. What it may do"
"$keyward" policy show --spec "$work/spec.json" >"$work/out"
fold -s -w 110 "$work/out" | indent

step "3. Minting 1 token is allowed: the raw transaction"
tx 0 1 $token
show sign

step "4. Calling another contract is not"
tx 1 1 0x2222222222222222222222222222222222222222
refused 'Call to this contract is not allowed'

step "5. Nor is minting 5 more: that would make 6 today"
tx 1 5 $token
refused 'Allowance limit exceeded'

step "6. The audit trail"
show "$keyward" audit tail --dir "$KEYWARD_DIR"
for event in session.created sign.granted sign.denied; do
	grep -q " $event " "$work/out" || fail "no $event in the audit trail"
done
show "$keyward" audit verify --dir "$KEYWARD_DIR"

step "All of it happened. Now with your own app: make run"
