package softhsmtest

import (
	"crypto/x509"
	"fmt"
	"os"
	"testing"

	"github.com/keyward/keyward/backends/isolated"
	keyward "github.com/keyward/keyward/internal/command"
)

// trustEnv names a file with certificates. With it, the test program is the agent, which trusts them as it does
// the system's: no variable that it sees names foreign ones.
const trustEnv = "KEYWARD_TEST_TRUST"

func TestMain(m *testing.M) {
	child := len(os.Args) == 2 && os.Args[1] == isolated.Arg
	if file := os.Getenv(trustEnv); file != "" && !child {
		os.Setenv("SSL_CERT_FILE", file)
		if _, err := x509.SystemCertPool(); err != nil { // read once in a process
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Unsetenv("SSL_CERT_FILE")
		child = true
	}
	if child {
		keyward.Main()
	}
	if len(os.Args) == 5 && os.Args[1] == strangersArg {
		if err := beStrangers(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
