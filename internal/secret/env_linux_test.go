package secret

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// showHidden is a process that hides its PINs and says what is left of them.
func showHidden() {
	if err := HideEnv([]string{"TEST_PIN_A", "TEST_PIN_B", "TEST_PIN_C"}); err != nil {
		panic(err)
	}
	for _, name := range []string{"TEST_PIN_A", "TEST_PIN_B", "TEST_PIN_C"} {
		b, err := FromEnv(name)(context.Background())
		if err != nil {
			fmt.Println(name, "error:", err)
			continue
		}
		// Spelt backwards, or this would be the copy in memory that is looked for.
		_ = b.Use(func(pin []byte) error {
			fmt.Print(name, " ")
			for i := range pin {
				fmt.Printf("%c", pin[len(pin)-1-i])
			}
			fmt.Println()
			return nil
		})
		b.Close()
	}
	environ, err := os.ReadFile("/proc/self/environ")
	fmt.Printf("environ %q %v\n", environ, err)
	fmt.Printf("args %q, TEST_KEPT=%s, %s=%q\n", os.Args[1:], os.Getenv("TEST_KEPT"), handoverVar, os.Getenv(handoverVar))
}

func TestHideEnv(t *testing.T) {
	cmd := helper(t, "hides its PINs")
	cmd.Args = append(cmd.Args, "an argument")
	cmd.Env = append(cmd.Env, "TEST_PIN_A=secret=1234", "TEST_KEPT=yes", "TEST_PIN_B=abcdef", "TEST_PIN_C=")
	text, err := cmd.CombinedOutput()
	out := string(text)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		"TEST_PIN_A 4321=terces\n", "TEST_PIN_B fedcba\n",
		"TEST_PIN_C error: PIN: environment variable TEST_PIN_C is not set",
		`args ["an argument"], TEST_KEPT=yes, KEYWARD_PINS_FD=""`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	_, environ, _ := strings.Cut(out, "environ ")
	if strings.Contains(environ, "1234") || strings.Contains(environ, "abcdef") ||
		!strings.Contains(environ, "TEST_KEPT=yes") {
		t.Errorf("/proc/self/environ still has a PIN, or lost more: %s", environ)
	}
}

func TestHandoverIsChecked(t *testing.T) {
	for _, where := range []string{"", "5", "x:1", "0:0", "3:99999999", "-1:4"} {
		if err := receive(where); err == nil || !strings.Contains(err.Error(), handoverVar) {
			t.Errorf("receive(%q) = %v", where, err)
		}
	}
	if err := keepHanded([]byte("NAME\x00cut short")); err == nil {
		t.Error("a PIN that is cut short is taken")
	}
}
