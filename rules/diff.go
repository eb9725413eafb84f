package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Diff says in plain words what changes from one list of rules to another, a sentence each: nil if nothing does.
func Diff(from, to []Rule) (changes []string) {
	old := map[string]*Rule{}
	for i := range from {
		old[from[i].Name] = &from[i]
	}
	kept := map[string]bool{}
	for i := range to {
		r := &to[i]
		was := old[r.Name]
		if was == nil {
			changes = append(changes, fmt.Sprintf("New rule %q: %s.", r.Name, r.Describe()))
			continue
		}
		kept[r.Name] = true
		if before, after := was.Describe(), r.Describe(); before != after {
			changes = append(changes, fmt.Sprintf("Rule %q: %s. Before: %s.", r.Name, after, before))
		}
	}
	for i := range from {
		if !kept[from[i].Name] {
			changes = append(changes, fmt.Sprintf("Rule %q is gone: %s.", from[i].Name, from[i].Describe()))
		}
	}
	if changes == nil && !slices.EqualFunc(from, to, func(a, b Rule) bool { return a.Name == b.Name }) {
		changes = append(changes, "The rules apply in another order.")
	}
	return changes
}

// Describe says what the rule does, without its name.
func (r *Rule) Describe() string {
	var about []string
	if r.Function != "" {
		about = append(about, "for calls of "+r.Function)
	}
	if r.Target != "" {
		about = append(about, "to "+r.Target)
	}
	text := strings.Join(append(about, r.effect()), ", ")
	if r.Message != "" {
		text += fmt.Sprintf(", with the message %q", r.Message)
	}
	return text
}

func (r *Rule) effect() string {
	if isAllow(r) {
		return r.allows()
	}
	counts := fmt.Sprintf("at most %s per %s in %s", r.Limit, r.Per, length(r.Window))
	if r.Sliding {
		counts += " before now"
	}
	switch r.Use {
	case "":
	case "rate":
		return "signatures, " + counts
	case "spend":
		return "value and fees, " + counts
	case "hours":
		days := "every day"
		if r.Days != nil {
			days = "on " + strings.Join(r.Days, ", ")
		}
		if r.From == "" {
			return "signs only " + days
		}
		return fmt.Sprintf("signs only from %s to %s UTC, %s", r.From, r.To, days)
	case "require":
		return "the key must be " + strings.Join(r.List, " or ")
	case "targets", "functions", "paymasters":
		return fmt.Sprintf("of %s only %s", r.Use, strings.Join(r.List, ", "))
	default:
		return fmt.Sprintf("%s of one transaction at most %s", strings.TrimPrefix(r.Use, "max-"), r.Limit)
	}
	if r.Count == "" && r.Then == Approve {
		return "wants an approval where " + r.When
	}
	if r.Count == "" {
		return "denies where " + r.When
	}
	if r.When != "" {
		counts += " where " + r.When
	}
	return fmt.Sprintf("counts %s, %s", r.Count, counts)
}

// allows is effect of a rule that allows messages.
func (r *Rule) allows() string {
	what := "texts (EIP-191)"
	switch {
	case r.Use != "":
		what = r.Use
	case r.Type != PersonalType:
		what = "messages of type " + r.Type
	}
	text := "allows " + what
	var domain []string
	for _, name := range slices.Sorted(maps.Keys(r.Domain)) {
		domain = append(domain, name+" "+r.Domain[name])
	}
	if domain != nil {
		text += " in the domain " + strings.Join(domain, ", ")
	}
	if r.List != nil {
		text += " for " + strings.Join(r.List, ", ")
	}
	if r.Owner != "" {
		text += " whose " + r.Owner + " is the session's account"
	}
	if r.When != "" {
		text += " where " + r.When
	}
	if key := r.Channel + r.Nonce; key != "" {
		text += fmt.Sprintf(", whose %s counts once for each %s", r.Count, key)
	}
	if r.Limit != "" {
		text += fmt.Sprintf(", at most %s per %s", r.Limit, r.Per)
		if r.Window != 0 {
			text += " in " + length(r.Window)
		}
		if r.Sliding {
			text += " before now"
		}
	}
	return text
}

func length(d time.Duration) string {
	text := d.String() // "1m0s"
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}
