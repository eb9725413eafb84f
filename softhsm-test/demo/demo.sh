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
indent() { cut -c1-150 | sed 's/^/   /'; }
fail() { echo "demo: $*" >&2; exit 1; }

# tx NONCE AMOUNT TARGET: mint AMOUNT (0 to 9) tokens.
tx() {
	sed -e "s/\"nonce\": 0/\"nonce\": $1/" -e "s/1\",\$/$2\",/;t" \
		-e "s/0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA/$3/" softhsm-test/demo/tx.json >"$work/tx.json"
}
token=0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA

# refused CODE: signs the transaction, which has to be refused as denied by policy.
refused() {
	code=0
	"$keyward" sign --dir "$KEYWARD_DIR" --session "$KEYWARD_SESSION" --tx "$work/tx.json" 2>"$work/why" || code=$?
	indent <"$work/why"
	[ $code = 3 ] || fail "exit code $code, want 3 (denied)"
}

sed "s/@EXPIRES_AT@/$(($(date +%s) + 86400))/" softhsm-test/demo/spec.json >"$work/spec.json"
step "1. An agent on a fresh SoftHSM token, and a session whose key was made in it"
softhsm-test/start-agent.sh --dir "$work/agent" --spec "$work/spec.json" \
	--account 0x1111111111111111111111111111111111111111 >"$work/env"
. "$work/env"
"$keyward" session show --dir "$KEYWARD_DIR" "$KEYWARD_SESSION" | sed -n '/^id\|^signer\|^protection\|^key /p' | indent

step "2. What it may do"
"$keyward" policy show --spec "$work/spec.json" | indent

step "3. Minting 1 token is allowed: the raw transaction"
tx 0 1 $token
"$keyward" sign --dir "$KEYWARD_DIR" --session "$KEYWARD_SESSION" --tx "$work/tx.json" | indent

step "4. Calling another contract is not"
tx 1 1 0x2222222222222222222222222222222222222222
refused

step "5. Nor is minting 5 more: that would make 6 today"
tx 2 5 $token
refused

step "6. The audit trail"
"$keyward" audit tail --dir "$KEYWARD_DIR" | indent
"$keyward" audit verify --dir "$KEYWARD_DIR" | indent
for event in sign.granted sign.denied; do
	"$keyward" audit tail --dir "$KEYWARD_DIR" --json | grep -q "\"$event\"" || fail "no $event in the audit trail"
done

step "All of it happened. Now with your own app: make run"
