//go:build nogcp

package command

import (
	"context"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/config"
)

func (a *agent) openGCPKMS(context.Context, string, *config.Backend) (backends.Backend, error) {
	return nil, leftOut("gcpkms", "nogcp")
}
