// Stands in for a node of Abstract testnet where there is no deployed account to try things with:
// node src/stub-node.js [PORT]
import { StubNode } from './node.js'

const node = await StubNode.start({ after: () => {} }, { port: Number(process.argv[2] ?? 8545) })
console.log(`RPC_URL=${node.url}`)
