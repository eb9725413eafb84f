package piv

import "github.com/keyward/keyward/backends/sealed"

// Wrapper is what b's keys are sealed by.
func (b *Backend) Wrapper() sealed.Wrapper { return b.dev }
