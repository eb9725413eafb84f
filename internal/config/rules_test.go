package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/rules"
)

const oneBackend = "[backends.dev]\ntype = \"pkcs11\"\nmodule = \"/m.so\"\ntoken = \"t\"\npin_file = \"p\"\n"

func TestRules(t *testing.T) {
	c, err := Parse([]byte(oneBackend+`
[[rules]]
name = "large"
when = 'tx.value > ether("10")'
message = "too much"

[[rules]]
name = "rate"
use = "rate"
per = "client"
limit = 60
window = "1m"
`), "config.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := []rules.Rule{
		{Name: "large", When: `tx.value > ether("10")`, Message: "too much"},
		{Name: "rate", Use: "rate", Per: "client", Limit: "60", Window: time.Minute},
	}
	if !reflect.DeepEqual(c.Rules, want) || c.Guard.Hash() == "" {
		t.Errorf("%+v", c.Rules)
	}
	none, err := Parse([]byte(oneBackend), "config.toml")
	if err != nil || none.Guard.Hash() != "" {
		t.Errorf("no rules: %q, %v", none.Guard.Hash(), err)
	}
	if got := Differences(c, none); !reflect.DeepEqual(got, []string{"rules"}) {
		t.Errorf("Differences: %q", got)
	}
}

// TestRulesErrors wants each error at the line of its own section.
func TestRulesErrors(t *testing.T) {
	for text, want := range map[string]string{
		"rules = 1": `config.toml:7:1: "rules" is a list of sections: write [[rules]]`,
		"[rules]":   `config.toml:7:2: "rules" is a list of sections: write [[rules]]`,
		"[[rules]]\nname = \"a\"\nwhen = \"false\"\n[[rules]]\nnam = \"b\"":     `config.toml:11:1: unknown key "nam" in [rules.1]; did you mean "name"?`,
		"[[rules]]\nname = \"a\"\nwhen = \"false\"\n[[rules]]\nname = \"a\"":    `config.toml:10:3: rule "a": there are two rules of that name`,
		"[[rules]]\nname = \"a\"\nwhen = \"tx.value > 1\"":                      `config.toml:7:3: rule "a": when: column 10: `,
		"[[rules]]\nname = \"a\"\nuse = \"rate\"\nwindow = 60":                  `config.toml:10:1: window: want a duration`,
		"[[rules]]\nname = \"a\"\nwhen = \"true\"\nthen = \"perhaps\"":          `config.toml:10:1: then: unknown value "perhaps"`,
		"[[rules]]\nname = \"a\"\nuse = \"max-value\"\nlimit = \"1 finney\"":    `rule "a": limit: "1 finney": the unit is "finney"`,
		"[[rules]]\nwhen = \"true\"":                                            `config.toml:7:3: rule "": it has no name`,
		"[[rules]]\nname = \"a\"\nwhen = \"true\"\n[[rules.x]]\nname = \"b\"\n": `unknown key "x"`,
	} {
		if !strings.HasPrefix(text, "[[") {
			text = strings.ReplaceAll(text, "\n", "")
		}
		file := oneBackend + "\n" + text + "\n"
		if text == "rules = 1" {
			file = "\n\n\n\n\n\n" + text + "\n" + oneBackend
		}
		_, err := Parse([]byte(file), "config.toml")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n%v\nwant %q", text, err, want)
		}
	}
}

// TestMessageRulesOfTheDocs parses the example of rules that allow messages.
func TestMessageRulesOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```toml\n# x402")
	example, _, found := strings.Cut("# x402"+rest, "```")
	if !found {
		t.Fatal("docs/rules.md has no such example")
	}
	c, err := Parse([]byte(oneBackend+example), "rules.md")
	if err != nil || len(c.Rules) != 3 || !c.Guard.AllowsMessages() {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestRulesOfTheDocs parses the example of docs/rules.md.
func TestRulesOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```toml\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("docs/rules.md has no example")
	}
	c, err := Parse([]byte(oneBackend+example), "rules.md")
	if err != nil || len(c.Rules) != 3 {
		t.Errorf("%+v, %v", c, err)
	}
}
