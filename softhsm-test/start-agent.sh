#!/bin/sh
# Starts an agent on a throw-away SoftHSM token, in the background, with one active
# session, for tests and CI.
#
#   softhsm-test/start-agent.sh --spec FILE --account 0x… [--chain NAME] [--dir DIR]
#
# prints on stdout, one a line, ready for eval or $GITHUB_ENV:
#
#   KEYWARD_DIR, KEYWARD_SOCKET, KEYWARD_SESSION, KEYWARD_SIGNER, KEYWARD_PID
#
# To stop: kill $KEYWARD_PID, and remove $KEYWARD_DIR. The agent's log is agent.log in there.
# $KEYWARD is the binary (default: keyward in $PATH, else bin/keyward of this repository).
# For local tests only: the session counts as approved without asking any chain.
set -eu

fail() { echo "start-agent.sh: $*" >&2; exit 1; }

spec='' account='' chain=abstract-testnet dir=''
while [ $# -gt 0 ]; do
	[ $# -ge 2 ] || fail "$1 needs a value"
	case $1 in
	--spec) spec=$2 ;;
	--account) account=$2 ;;
	--chain) chain=$2 ;;
	--dir) dir=$2 ;;
	*) fail "unknown argument $1" ;;
	esac
	shift 2
done
[ -n "$spec" ] && [ -n "$account" ] || fail "give --spec and --account"

keyward=${KEYWARD:-$(command -v keyward || echo "$(dirname "$0")/../bin/keyward")}
[ -x "$keyward" ] || fail "no keyward binary: set KEYWARD, or run make build"
# A short path: a socket's has 107 bytes at most.
[ -n "$dir" ] || dir=$(mktemp -d /tmp/keyward.XXXXXX)

"$keyward" init --dir "$dir" --softhsm --json >/dev/null
dir=$(cd "$dir" && pwd)
# With descriptors of its own, so that whoever reads our stdout sees its end.
"$keyward" serve --dir "$dir" </dev/null >"$dir/agent.log" 2>&1 &
pid=$!
give_up() {
	kill "$pid" 2>/dev/null || true
	cat "$dir/agent.log" >&2
	fail "$*"
}

"$keyward" status --dir "$dir" --wait 30s >/dev/null || give_up "the agent does not start"
session=$("$keyward" session create --dir "$dir" --spec "$spec" --account "$account" --chain "$chain" \
	--client "uid:$(id -u)" --json) || give_up "the session can't be created"
field() { printf '%s\n' "$session" | grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d'"' -f4; }
"$keyward" session activate --dir "$dir" "$(field id)" >/dev/null || give_up "the session can't be activated"

cat <<END
KEYWARD_DIR=$dir
KEYWARD_SOCKET=$dir/agent.sock
KEYWARD_SESSION=$(field id)
KEYWARD_SIGNER=$(field signer)
KEYWARD_PID=$pid
END
