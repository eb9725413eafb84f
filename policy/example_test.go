package policy_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// A session may mint tokens of one contract: up to 5 at a time, and 8 in all.
func ExampleSpec_Check() {
	spec, err := policy.ParseSpec([]byte(`{
		"expiresAt": "1900000000",
		"feeLimit": {"limitType": "Lifetime", "limit": "1000000000000000", "period": "0"},
		"callPolicies": [{
			"target": "0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA",
			"selector": "mint(address,uint256)",
			"maxValuePerUse": "0",
			"valueLimit": {"limitType": "Unlimited", "limit": "0", "period": "0"},
			"constraints": [{
				"condition": "LessOrEqual", "index": "1",
				"refValue": "0x0000000000000000000000000000000000000000000000000000000000000005",
				"limit": {"limitType": "Lifetime", "limit": "8", "period": "0"}
			}]
		}],
		"transferPolicies": []
	}`), false)
	if err != nil {
		log.Fatal(err)
	}

	spec.Signer = policy.Address{19: 1} // the key's address

	const now = 1_800_000_000
	mint := func(amount byte) *policy.Call {
		data := make([]byte, 4+2*32)
		copy(data, spec.CallPolicies[0].Selector[:])
		data[len(data)-1] = amount
		return &policy.Call{
			To: spec.CallPolicies[0].Target, Data: data, GasLimit: *uint256.NewInt(100_000),
			MaxFeePerGas: *uint256.NewInt(25_000_000),
		}
	}
	periods := []uint64{0, 0, 0} // of the fee limit, the call's value limit and the constraint's limit

	charges, err := spec.Check(mint(5), periods, now)
	for _, charge := range charges {
		fmt.Println(charge.Tracker, charge.Amount)
	}
	fmt.Println(err)

	_, err = spec.Check(mint(6), periods, now)
	var denial *policy.Denial
	fmt.Println(errors.As(err, &denial), denial.Reason)
	// Output:
	// callParam:0xc4822abb9f05646a9ce44efa6ddcda0bf45595aa:0x40c10f19:0 5
	// fee 2500000000000
	// <nil>
	// true constraintNotMet
}
