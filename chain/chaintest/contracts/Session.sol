// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

// The words of SessionLib: their order and types are what the session hash is made of.

enum LimitType { Unlimited, Lifetime, Allowance }

enum Condition { Unconstrained, Equal, Greater, Less, GreaterOrEqual, LessOrEqual, NotEqual }

enum SessionStatus { NotInitialized, Active, Closed, Expired }

struct UsageLimit {
    LimitType limitType;
    uint256 limit;
    uint256 period;
}

struct Constraint {
    Condition condition;
    uint64 index;
    bytes32 refValue;
    UsageLimit limit;
}

struct CallSpec {
    address target;
    bytes4 selector;
    uint256 maxValuePerUse;
    UsageLimit valueLimit;
    Constraint[] constraints;
}

struct TransferSpec {
    address target;
    uint256 maxValuePerUse;
    UsageLimit valueLimit;
}

struct SessionSpec {
    address signer;
    uint256 expiresAt;
    UsageLimit feeLimit;
    CallSpec[] callPolicies;
    TransferSpec[] transferPolicies;
}

struct LimitState {
    uint256 remaining;
    address target;
    bytes4 selector;
    uint256 index;
}

struct SessionState {
    uint256 expiresAt;
    SessionStatus status;
    uint256 feesRemaining;
    LimitState[] transferValue;
    LimitState[] callValue;
    LimitState[] callParams;
}

/// What a session transaction counts by.
struct Use {
    address to;
    uint256 value;
    bytes data;
    uint256 fee;
    bool paymaster;
}
