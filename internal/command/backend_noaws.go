//go:build noaws

package command

import (
	"context"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/config"
)

func (a *agent) openAWSKMS(context.Context, string, *config.Backend) (backends.Backend, error) {
	return nil, leftOut("awskms", "noaws")
}
