//go:build noaws || noazure || nogcp

package command

import "fmt"

// leftOut is the error of a backend type that this binary was built without.
func leftOut(typ, tag string) error {
	return fmt.Errorf("this keyward was built without type %s (-tags %s): use a build with it, or take the backend out "+
		"of the configuration", typ, tag)
}
