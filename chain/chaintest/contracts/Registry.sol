// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// The policy registry: the getters and the event of SessionKeyPolicyRegistry, and
/// setters that anyone may call.
contract Registry {
    enum PolicyType { Call, Transfer, ApprovalTarget }
    enum Status { Unset, Allowed, Blocked }

    event PolicyStatusChanged(
        PolicyType indexed policyType, address indexed target, bytes32 indexed data, Status status
    );

    mapping(PolicyType => mapping(address target => mapping(bytes32 data => Status))) private statuses;

    function getCallPolicyStatus(address target, bytes4 selector) external view returns (Status) {
        return statuses[PolicyType.Call][target][selector];
    }

    function getTransferPolicyStatus(address target) external view returns (Status) {
        return statuses[PolicyType.Transfer][target][0];
    }

    function getApprovalTargetStatus(address token, address target) external view returns (Status) {
        return statuses[PolicyType.ApprovalTarget][token][bytes32(uint256(uint160(target)))];
    }

    function setCallPolicyStatus(address target, bytes4 selector, Status status) external {
        set(PolicyType.Call, target, selector, status);
    }

    function setTransferPolicyStatus(address target, Status status) external {
        set(PolicyType.Transfer, target, 0, status);
    }

    function setApprovalTargetStatus(address token, address target, Status status) external {
        set(PolicyType.ApprovalTarget, token, bytes32(uint256(uint160(target))), status);
    }

    function set(PolicyType policyType, address target, bytes32 data, Status status) private {
        statuses[policyType][target][data] = status;
        emit PolicyStatusChanged(policyType, target, data, status);
    }
}
