//go:build noazure

package command

import (
	"context"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/config"
)

func (a *agent) openAzureKV(context.Context, string, *config.Backend) (backends.Backend, error) {
	return nil, leftOut("azurekv", "noazure")
}
