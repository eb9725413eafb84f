package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Amount writes what the row can lose at most, with its unit.
func (r *RiskRow) Amount() string { return r.Asset.amount(r.AtMost) }

// Amount writes what there is to lose at most, with its unit.
func (t *RiskTotal) Amount() string { return t.Asset.amount(t.AtMost) }

func (a Asset) amount(most *Decimal) string {
	if most == nil {
		if a.Kind == ContractAsset {
			return "up to the contract"
		}
		return "unbounded"
	}
	x := most.Int()
	switch a.Kind {
	case NativeAsset:
		return ether(x)
	case NFTAsset:
		return plural(&x, "token")
	default:
		return plural(&x, "unit")
	}
}

// Name says what the asset is, for a person.
func (a Asset) Name() string {
	switch a.Kind {
	case NativeAsset:
		return "ETH"
	case TokenAsset:
		return "token " + a.Address.String()
	case NFTAsset:
		return "collection " + a.Address.String()
	case Permit2Asset:
		return "any token that Permit2 is approved for"
	default:
		return "contract " + a.Address.String()
	}
}

// sentence sums r up.
func (r *Risk) sentence(s *Spec) string {
	if where := s.unknownEnum(); where != "" {
		return "This session can lose nothing: " + where + " is not one that the contract knows."
	}
	if s.ExpiresAt.LtUint64(r.From) {
		return "This session can lose nothing: it ended at " + unixTime(&s.ExpiresAt) + "."
	}
	var bounded, open []string
	for _, t := range r.Totals {
		switch {
		case t.Asset.Kind == ContractAsset:
		case t.AtMost == nil:
			open = append(open, t.Asset.Name())
		case *t.AtMost == Decimal{}:
		case t.Asset.Kind == NativeAsset:
			bounded = append(bounded, t.Amount())
		default:
			bounded = append(bounded, t.Amount()+" of "+t.Asset.Name())
		}
	}
	text := fmt.Sprintf("Until %s, this session can lose ", unixTime(&s.ExpiresAt))
	switch {
	case len(bounded) > 0 && len(open) > 0:
		text += "at most " + list(bounded) + ", and without bound " + list(open)
	case len(bounded) > 0:
		text += "at most " + list(bounded)
	case len(open) > 0:
		text += "without bound " + list(open)
	default:
		text += "nothing"
	}
	if code := r.code(); len(code) > 0 {
		text += "; beyond that, what " + list(code) + " can take is up to the contract"
	}
	return text + "."
}

// code names the functions whose effect is their contract's own.
func (r *Risk) code() (names []string) {
	for _, row := range r.Rows {
		if row.Asset.Kind != ContractAsset {
			continue
		}
		name := row.Through + " on " + row.Asset.Address.String()
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// list writes "a", "a and b", or "a, b and c".
func list(items []string) string {
	last := len(items) - 1
	if last < 1 {
		return strings.Join(items, "")
	}
	return strings.Join(items[:last], ", ") + " and " + items[last]
}
