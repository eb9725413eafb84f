package config

import (
	"os"
	"strings"
)

// At says where in the configuration file the setting stands that err is about: path is its key with the sections that
// it is in, outermost first. The error is an *[Error] that wraps err, at the innermost of these that the file has; it
// is err itself if the file has none of them or can't be read.
func At(file string, err error, path ...string) error {
	data, readErr := os.ReadFile(file)
	if err == nil || readErr != nil {
		return err
	}
	at := positions(data)
	for n := len(path); n > 0; n-- {
		pos, ok := at[strings.Join(path[:n], "\x00")]
		if !ok {
			continue
		}
		return &Error{File: file, Line: pos.Line, Column: pos.Column, Msg: err.Error(), Err: err}
	}
	return err
}
