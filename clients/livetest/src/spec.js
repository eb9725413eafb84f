import { pad, parseAbi, parseEther, toFunctionSelector } from 'viem'

export const account = '0xa1A1A1a1A1a1a1a1a1A1A1a1a1a1A1A1a1a1A1A1'.toLowerCase()
export const nft = '0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA'
export const shop = '0x5555555555555555555555555555555555555555'
export const friend = '0x6666666666666666666666666666666666666666'
export const stranger = '0x7777777777777777777777777777777777777777'
export const paymaster = '0x5407B5040dec3D339A9247f3654E59EEccbb6391'

export const abi = parseAbi(['function mint(address to, uint256 amount)', 'function buy(uint256 item) payable'])

const LIFETIME = 1
const ALLOWANCE = 2
const EQUAL = 1

const lifetime = (limit) => ({ limitType: LIFETIME, limit, period: 0n })
const daily = (limit) => ({ limitType: ALLOWANCE, limit, period: 86_400n })
const unlimited = { limitType: 0, limit: 0n, period: 0n }

/** A session of the SDK's shape, less its signer: mint to oneself, buy, and pay a friend. Ends in a day. */
export function sessionSpec() {
  return {
    expiresAt: BigInt(Math.floor(Date.now() / 1000) + 86_400),
    feeLimit: lifetime(parseEther('1')),
    callPolicies: [
      {
        target: nft,
        selector: toFunctionSelector('mint(address,uint256)'),
        maxValuePerUse: 0n,
        valueLimit: lifetime(0n),
        constraints: [
          { index: 0n, condition: EQUAL, refValue: pad(account), limit: unlimited },
          { index: 1n, condition: 0, refValue: pad('0x'), limit: daily(1_000n) },
        ],
      },
      {
        target: shop,
        selector: toFunctionSelector('buy(uint256)'),
        maxValuePerUse: parseEther('1'),
        valueLimit: daily(parseEther('3')),
        constraints: [],
      },
    ],
    transferPolicies: [{ target: friend, maxValuePerUse: parseEther('1'), valueLimit: lifetime(parseEther('5')) }],
  }
}
