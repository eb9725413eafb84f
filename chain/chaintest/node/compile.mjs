// Compiles the contracts in ../contracts, and writes {NAME: {abi, code}} to stdout: code is
// what stands at the contract's address, in 0x-hex.
import { readdirSync, readFileSync } from "node:fs";
import solc from "solc";

const dir = new URL("../contracts/", import.meta.url);
const names = readdirSync(dir).filter((name) => name.endsWith(".sol")).sort();
const sources = Object.fromEntries(names.map((name) => [name, { content: readFileSync(new URL(name, dir), "utf8") }]));

const output = JSON.parse(
  solc.compile(
    JSON.stringify({
      language: "Solidity",
      sources,
      settings: {
        optimizer: { enabled: true },
        outputSelection: { "*": { "*": ["abi", "evm.deployedBytecode.object"] } },
      },
    }),
  ),
);
const problems = output.errors ?? [];
if (problems.length > 0) {
  console.error(problems.map((problem) => problem.formattedMessage).join("\n"));
  process.exit(1);
}

const contracts = {};
for (const file of Object.values(output.contracts)) {
  for (const [name, { abi, evm }] of Object.entries(file)) {
    if (evm.deployedBytecode.object !== "") contracts[name] = { abi, code: "0x" + evm.deployedBytecode.object };
  }
}
console.log(JSON.stringify(contracts));
