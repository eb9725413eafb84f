package secret

import (
	"context"
)

// maxToken bounds a token, in bytes. The token of a Kubernetes service account has about 1,300.
const maxToken = 16 << 10

// TokenFromFile is [FromFile] for a token, which a service knows the agent by and which may be longer than a PIN.
func TokenFromFile(path string) Source {
	return func(context.Context) (*Buffer, error) { return tokens.readFile(path, 0o077) }
}

// TokenFromCredential is [FromCredential] for a token.
func TokenFromCredential(name string) Source {
	return func(context.Context) (*Buffer, error) { return tokens.readCredential(name) }
}

// ServiceAccountDir is where Kubernetes puts the token of a container's service account.
const ServiceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// ServiceAccountToken is TokenFromFile for the token of a Kubernetes service account. Kubernetes lets each user of the
// container read it.
func ServiceAccountToken(path string) Source {
	return func(context.Context) (*Buffer, error) { return tokens.readFile(path, 0o022) }
}
