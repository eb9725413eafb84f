#!/bin/sh
# Mints through the agent with nothing but curl and jq.
#
#   mint.sh RECIPIENT [AMOUNT]
#
# KEYWARD_SOCKET is the agent's socket. With RPC_URL, a node of the session's chain, the transaction is sent;
# without, it is signed with nonce 0 and printed. Exit code 3: the policy said no.
set -eu

socket=${KEYWARD_SOCKET:-$(dirname "$0")/../../.keyward/agent.sock}
items=0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA
recipient=${1:?"usage: mint.sh RECIPIENT [AMOUNT]"}
amount=${2:-1}

# rpc METHOD PARAMS CURL-ARGUMENT…: prints the result, or says what went wrong.
rpc() {
	method=$1 params=$2
	shift 2
	jq -cn --arg method "$method" --argjson params "$params" '{jsonrpc: "2.0", id: 1, $method, $params}' |
		curl -sS -H 'Content-Type: application/json' -d @- "$@" |
		jq -r --arg method "$method" '.error as $err
			| if $err then "\($method): \($err.message)\n" | halt_error(if $err.code == 4001 then 3 else 1 end)
			  else .result end'
}
agent() { rpc "$1" "$2" --unix-socket "$socket" http://keyward/; }
node() { rpc "$1" "$2" "$RPC_URL"; }

sessions=$(agent session_list '[]')
session=$(echo "$sessions" | jq 'map(select(.kind == "agw" and .status == "active")) | first // ("no session\n" | halt_error(1))')
account=$(echo "$session" | jq -r .account)

nonce=0x0 fee=0x2b275d0
if [ -n "${RPC_URL:-}" ]; then
	nonce=$(node eth_getTransactionCount "[\"$account\", \"pending\"]")
	fee=$(node eth_gasPrice '[]')
fi

# mint(address,uint256)
data=$(printf '0x40c10f19%64s%064x' "${recipient#0x}" "$amount" | tr ' ' 0)
tx=$(jq -cn --arg session "$(echo "$session" | jq -r .id)" --arg from "$account" --arg to "$items" --arg data "$data" \
	--arg nonce "$nonce" --arg fee "$fee" \
	'{$session, $from, $to, $data, $nonce, gas: 400000, maxFeePerGas: $fee, maxPriorityFeePerGas: 0}')

signed=$(agent session_signTransaction "[$tx]")
raw=$(echo "$signed" | jq -r .raw)
if [ -n "${RPC_URL:-}" ]; then
	node eth_sendRawTransaction "[\"$raw\"]"
else
	echo "$raw"
fi
