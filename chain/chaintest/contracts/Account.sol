// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import "./Session.sol";

interface IValidator {
    function use(bytes calldata spec, Use calldata tx_) external;
}

/// A ZKsync transaction, as the session's signer signs it (EIP-712, type 0x71).
struct Transaction {
    uint256 from;
    uint256 to;
    uint256 gasLimit;
    uint256 gasPerPubdataByteLimit;
    uint256 maxFeePerGas;
    uint256 maxPriorityFeePerGas;
    uint256 paymaster;
    uint256 nonce;
    uint256 value;
    bytes data;
    bytes paymasterInput;
}

/// A smart account whose owner is whoever calls it. Each transaction of it, the owner's
/// or a session's, takes one nonce. An Ethereum node raises a contract's nonce when it
/// creates another, so that is how it is taken.
contract Account {
    bytes32 private constant DOMAIN_TYPE = keccak256("EIP712Domain(string name,string version,uint256 chainId)");
    bytes32 private constant TRANSACTION_TYPE = keccak256(
        "Transaction(uint256 txType,uint256 from,uint256 to,uint256 gasLimit,uint256 gasPerPubdataByteLimit,uint256 maxFeePerGas,uint256 maxPriorityFeePerGas,uint256 paymaster,uint256 nonce,uint256 value,bytes data,bytes32[] factoryDeps,bytes paymasterInput)"
    );

    receive() external payable {}

    /// An owner's transaction.
    function execute(address to, uint256 value, bytes calldata data) external payable {
        takeNonce();
        (bool ok, bytes memory out) = to.call{value: value}(data);
        if (!ok) {
            assembly {
                revert(add(out, 32), mload(out))
            }
        }
    }

    /// Transactions that do nothing.
    function takeNonces(uint256 n) external {
        for (uint256 i = 0; i < n; i++) takeNonce();
    }

    /// A session's transaction, whose signature is not looked at.
    function use(IValidator validator, bytes calldata spec, Use calldata tx_) external {
        takeNonce();
        validator.use(spec, tx_);
    }

    /// A session's transaction: its signature must be the spec's signer's, over this very
    /// transaction. Whether the call inside succeeds does not matter, as on chain.
    function land(IValidator validator, bytes calldata spec, Transaction calldata tx_, bytes calldata signature) external {
        require(tx_.from == uint160(address(this)), "Not this account's");
        require(recover(digest(tx_), signature) == abi.decode(spec, (SessionSpec)).signer, "Invalid signer (mismatch)");
        takeNonce();
        address to = address(uint160(tx_.to));
        validator.use(spec, Use(to, tx_.value, tx_.data, tx_.maxFeePerGas * tx_.gasLimit, tx_.paymaster != 0));
        (bool ok,) = to.call{value: tx_.value}(tx_.data);
        ok;
    }

    function takeNonce() private {
        address created;
        assembly {
            created := create(0, 0, 0)
        }
        require(created != address(0), "No nonce taken");
    }

    function digest(Transaction calldata t) private view returns (bytes32) {
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPE, keccak256("zkSync"), keccak256("2"), block.chainid));
        // In two parts, which together are one abi.encode: the compiler's stack holds no more.
        bytes memory first = abi.encode(
            TRANSACTION_TYPE, uint256(0x71), t.from, t.to, t.gasLimit, t.gasPerPubdataByteLimit, t.maxFeePerGas
        );
        bytes memory second = abi.encode(
            t.maxPriorityFeePerGas, t.paymaster, t.nonce, t.value, keccak256(t.data), keccak256(""), keccak256(t.paymasterInput)
        );
        return keccak256(abi.encodePacked("\x19\x01", domain, keccak256(bytes.concat(first, second))));
    }

    function recover(bytes32 hash, bytes calldata signature) private pure returns (address) {
        require(signature.length == 65, "Invalid signature");
        address signer = ecrecover(hash, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
        require(signer != address(0), "Invalid signature");
        return signer;
    }
}
