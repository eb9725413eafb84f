// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import "./Session.sol";

/// The session validator, as a chain's readers see it: the same functions, events and
/// accounting as SessionKeyValidator, with counters in one map. A test account reports
/// its session transactions with use, which on chain is the validation hook's work.
contract Validator {
    event SessionCreated(address indexed account, bytes32 indexed sessionHash, SessionSpec spec);
    event SessionRevoked(address indexed account, bytes32 indexed sessionHash);

    enum Kind { Fee, CallValue, TransferValue, CallParam }

    /// What a counter counts. What its kind has no use for is zero.
    struct Counter {
        bytes32 session;
        address account;
        Kind kind;
        address target;
        bytes4 selector;
        uint256 position;
    }

    mapping(bytes32 session => mapping(address account => SessionStatus)) private stored;
    mapping(bytes32 counter => uint256) private counted;
    mapping(bytes32 session => uint256) private expiry;

    /// The published contract leaves expiresAt at 0, so that sessionState says Expired of
    /// every session. It is done here too, unless a test asks for what was meant.
    bool private keepsExpiry;

    function setKeepsExpiry(bool keeps) external {
        keepsExpiry = keeps;
    }

    function createSession(SessionSpec memory spec) external {
        bytes32 session = keccak256(abi.encode(spec));
        require(spec.signer != address(0), "Invalid signer");
        require(stored[session][msg.sender] == SessionStatus.NotInitialized, "Session already exists");
        require(spec.feeLimit.limitType != LimitType.Unlimited, "Unlimited fee allowance is not safe");
        stored[session][msg.sender] = SessionStatus.Active;
        if (keepsExpiry) expiry[session] = spec.expiresAt;
        emit SessionCreated(msg.sender, session, spec);
    }

    function revokeKeys(bytes32[] calldata sessions) external {
        for (uint256 i = 0; i < sessions.length; i++) {
            require(stored[sessions[i]][msg.sender] == SessionStatus.Active, "Nothing to revoke");
            stored[sessions[i]][msg.sender] = SessionStatus.Closed;
            emit SessionRevoked(msg.sender, sessions[i]);
        }
    }

    function sessionStatus(address account, bytes32 session) external view returns (SessionStatus) {
        return stored[session][account];
    }

    /// Counts a session transaction of the caller, or reverts and counts nothing.
    function use(bytes calldata encoded, Use calldata tx_) external {
        SessionSpec memory spec = abi.decode(encoded, (SessionSpec));
        Counter memory counter;
        counter.session = keccak256(abi.encode(spec));
        counter.account = msg.sender;
        require(stored[counter.session][msg.sender] == SessionStatus.Active, "Session is not active");
        require(block.timestamp <= spec.expiresAt, "Session expired");
        if (tx_.data.length >= 4) useCall(spec, tx_, counter);
        else useTransfer(spec, tx_, counter);
        if (!tx_.paymaster) count(counterOf(counter, Kind.Fee, address(0), 0, 0), spec.feeLimit, tx_.fee);
    }

    function useCall(SessionSpec memory spec, Use calldata tx_, Counter memory counter) private {
        bytes4 selector = bytes4(tx_.data[:4]);
        for (uint256 i = 0; i < spec.callPolicies.length; i++) {
            CallSpec memory policy = spec.callPolicies[i];
            if (policy.target != tx_.to || policy.selector != selector) continue;
            require(tx_.value <= policy.maxValuePerUse, "Value exceeds limit");
            count(counterOf(counter, Kind.CallValue, tx_.to, selector, 0), policy.valueLimit, tx_.value);
            for (uint256 j = 0; j < policy.constraints.length; j++) {
                Constraint memory c = policy.constraints[j];
                uint256 start = 4 + 32 * uint256(c.index);
                bytes32 param = bytes32(tx_.data[start:start + 32]);
                require(holds(c.condition, param, c.refValue), "Constraint not met");
                count(counterOf(counter, Kind.CallParam, tx_.to, selector, j), c.limit, uint256(param));
            }
            return;
        }
        revert("Call to this contract is not allowed");
    }

    function useTransfer(SessionSpec memory spec, Use calldata tx_, Counter memory counter) private {
        for (uint256 i = 0; i < spec.transferPolicies.length; i++) {
            TransferSpec memory policy = spec.transferPolicies[i];
            if (policy.target != tx_.to) continue;
            require(tx_.value <= policy.maxValuePerUse, "Value exceeds limit");
            count(counterOf(counter, Kind.TransferValue, tx_.to, 0, 0), policy.valueLimit, tx_.value);
            return;
        }
        revert("Transfer to this address is not allowed");
    }

    function holds(Condition condition, bytes32 param, bytes32 ref) private pure returns (bool) {
        if (condition == Condition.Equal) return param == ref;
        if (condition == Condition.Greater) return param > ref;
        if (condition == Condition.Less) return param < ref;
        if (condition == Condition.GreaterOrEqual) return param >= ref;
        if (condition == Condition.LessOrEqual) return param <= ref;
        if (condition == Condition.NotEqual) return param != ref;
        return true;
    }

    function counterOf(Counter memory c, Kind kind, address target, bytes4 selector, uint256 position)
        private
        pure
        returns (Counter memory)
    {
        return Counter(c.session, c.account, kind, target, selector, position);
    }

    /// The place of a counter; an allowance has one for each period.
    function slot(Counter memory c, UsageLimit memory limit) private view returns (bytes32) {
        uint256 period = limit.limitType == LimitType.Allowance ? block.timestamp / limit.period : 0;
        return keccak256(abi.encode(c, limit.limitType, period));
    }

    function count(Counter memory c, UsageLimit memory limit, uint256 amount) private {
        if (limit.limitType == LimitType.Unlimited) return;
        bytes32 where = slot(c, limit);
        require(counted[where] + amount <= limit.limit, "Limit exceeded");
        counted[where] += amount;
    }

    function remaining(Counter memory c, UsageLimit memory limit) private view returns (uint256) {
        if (limit.limitType == LimitType.Unlimited) return type(uint256).max;
        return limit.limit - counted[slot(c, limit)];
    }

    function sessionState(address account, SessionSpec memory spec) external view returns (SessionState memory state) {
        Counter memory counter;
        counter.session = keccak256(abi.encode(spec));
        counter.account = account;
        state.expiresAt = expiry[counter.session];
        state.status = block.timestamp > state.expiresAt ? SessionStatus.Expired : stored[counter.session][account];
        state.feesRemaining = remaining(counterOf(counter, Kind.Fee, address(0), 0, 0), spec.feeLimit);
        state.transferValue = new LimitState[](spec.transferPolicies.length);
        for (uint256 i = 0; i < spec.transferPolicies.length; i++) {
            TransferSpec memory policy = spec.transferPolicies[i];
            uint256 left = remaining(counterOf(counter, Kind.TransferValue, policy.target, 0, 0), policy.valueLimit);
            state.transferValue[i] = LimitState(left, policy.target, 0, 0);
        }
        callStates(state, spec, counter);
    }

    function callStates(SessionState memory state, SessionSpec memory spec, Counter memory counter) private view {
        uint256 limited = 0;
        for (uint256 i = 0; i < spec.callPolicies.length; i++) {
            Constraint[] memory constraints = spec.callPolicies[i].constraints;
            for (uint256 j = 0; j < constraints.length; j++) {
                if (constraints[j].limit.limitType != LimitType.Unlimited) limited++;
            }
        }
        state.callValue = new LimitState[](spec.callPolicies.length);
        state.callParams = new LimitState[](limited);
        uint256 next = 0;
        for (uint256 i = 0; i < spec.callPolicies.length; i++) {
            CallSpec memory policy = spec.callPolicies[i];
            uint256 left = remaining(counterOf(counter, Kind.CallValue, policy.target, policy.selector, 0), policy.valueLimit);
            state.callValue[i] = LimitState(left, policy.target, policy.selector, 0);
            for (uint256 j = 0; j < policy.constraints.length; j++) {
                Constraint memory c = policy.constraints[j];
                if (c.limit.limitType == LimitType.Unlimited) continue;
                left = remaining(counterOf(counter, Kind.CallParam, policy.target, policy.selector, j), c.limit);
                state.callParams[next++] = LimitState(left, policy.target, policy.selector, c.index);
            }
        }
    }
}
