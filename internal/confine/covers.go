package confine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Existing returns the rules without the paths that do not exist: those that [Apply] has put into force.
func (r *Rules) Existing() *Rules {
	kept := *r
	for _, paths := range []*[]string{&kept.Read, &kept.Write, &kept.Sockets, &kept.Devices, &kept.Execute} {
		*paths = slices.DeleteFunc(slices.Clone(*paths), func(path string) bool {
			_, err := os.Stat(path)
			return err != nil
		})
	}
	return &kept
}

// Lacks names the first path of want that r does not allow: it is not among the paths of r for the same use, nor below
// one of them; "": there is none. Paths that do not exist count as well. Symbolic links are followed, as Landlock
// follows them.
func (r *Rules) Lacks(want *Rules) string {
	write := resolved(r.Write)
	read := slices.Concat(resolved(r.Read), write)
	for _, use := range []struct{ want, have []string }{
		{want.Read, read},
		{want.Write, write},
		{want.Sockets, slices.Concat(resolved(r.Sockets), write)},
		{want.Devices, resolved(r.Devices)},
		{want.Execute, resolved(r.Execute)},
	} {
		for _, path := range use.want {
			if !below(resolve(path), use.have) {
				return path
			}
		}
	}
	return ""
}

// below reports whether path is one of dirs, or in one of them.
func below(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	})
}

func resolved(paths []string) []string {
	out := make([]string, 0, len(paths))
	for _, path := range paths {
		if path != "" {
			out = append(out, resolve(path))
		}
	}
	return out
}

// resolve follows the symbolic links in path, as far as it exists.
func resolve(path string) string {
	path = filepath.Clean(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(resolve(dir), filepath.Base(path))
	}
	return path
}
