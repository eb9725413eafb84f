package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/keyward/keyward/policy"
)

// Size is a number of bytes; in the file an integer, or a string such as "1MiB".
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

func (s Size) String() string {
	for _, u := range sizeUnits {
		if s >= Size(u.bytes) && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

func parseSize(s string) (Size, error) {
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimRight(num, " "), 10, 63)
		if err != nil || int64(n) > math.MaxInt64/u.bytes {
			break
		}
		return Size(int64(n) * u.bytes), nil
	}
	return 0, fmt.Errorf(`%q is no size; write an integer or "1MiB" (B, KiB, MiB, GiB)`, s)
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf(`%q is no duration; write "60s", "10m" or "24h"`, s)
	case d < 0:
		return 0, fmt.Errorf("%q is negative", s)
	}
	return d, nil
}

func parseMode(s string) (fs.FileMode, error) {
	m, err := strconv.ParseUint(s, 8, 32)
	if err != nil || m > 0o777 {
		return 0, fmt.Errorf(`%q are no permissions; write them in octal, "0660"`, s)
	}
	return fs.FileMode(m), nil
}

func parseAddress(s string) (a policy.Address, err error) {
	if err := a.UnmarshalText([]byte(s)); err != nil {
		return a, fmt.Errorf("%q is no address: it %w", s, err)
	}
	return a, nil
}

// The setters store v in dst. They return the type they want if v has another.

func setBool(dst *bool, v any) (want string, err error) {
	x, ok := v.(bool)
	if !ok {
		return "true or false", nil
	}
	*dst = x
	return "", nil
}

func setText[T any](dst *T, v any, want string, parse func(string) (T, error)) (string, error) {
	s, ok := v.(string)
	if !ok {
		return want, nil
	}
	x, err := parse(s)
	if err == nil {
		*dst = x
	}
	return "", err
}

// serial is a serial number as dst wants it, so that the line can be copied from one type of backend to another; what
// can't be one is left as it is.
func serial(dst, v any) any {
	switch x := v.(type) {
	case int64:
		if _, ok := dst.(*string); ok && x >= 0 {
			return strconv.FormatInt(x, 10)
		}
	case string:
		if n, err := strconv.ParseUint(x, 10, 63); err == nil {
			if _, ok := dst.(*int); ok {
				return int64(n)
			}
		}
	}
	return v
}

func setInt(dst *int, v any) (want string, err error) {
	n, ok := v.(int64)
	switch {
	case !ok:
		return "an integer", nil
	case n < 0 || n > math.MaxInt32:
		return "", fmt.Errorf("%d is out of range", n)
	}
	*dst = int(n)
	return "", nil
}

func setUint64(dst *uint64, v any) (want string, err error) {
	n, ok := v.(int64)
	switch {
	case !ok:
		return "an integer", nil
	case n < 0:
		return "", fmt.Errorf("%d is out of range", n)
	}
	*dst = uint64(n)
	return "", nil
}

func setSize(dst *Size, v any) (want string, err error) {
	if n, ok := v.(int64); ok {
		if n < 0 {
			return "", fmt.Errorf("%d is out of range", n)
		}
		*dst = Size(n)
		return "", nil
	}
	return setText(dst, v, `an integer or a string such as "1MiB"`, parseSize)
}

func setStrings(dst *[]string, v any) (want string, err error) {
	items, ok := v.([]any)
	if !ok {
		return "an array of strings", nil
	}
	list := make([]string, 0, len(items))
	for i, item := range items {
		s, ok := item.(string)
		if !ok {
			return "", fmt.Errorf("item %d: want a string, not %s", i+1, typeName(item))
		}
		list = append(list, s)
	}
	*dst = list
	return "", nil
}

func setMap(dst *map[string]string, v any) (want string, err error) {
	table, ok := v.(map[string]any)
	if !ok {
		return "a table of strings", nil
	}
	m := make(map[string]string, len(table))
	for k, v := range table {
		s, ok := v.(string)
		if !ok {
			return "", fmt.Errorf("%s: want a string, not %s", k, typeName(v))
		}
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(s, "\x00") {
			return "", errors.New("no name or value of an environment variable: " + strconv.Quote(k))
		}
		m[k] = s
	}
	*dst = m
	return "", nil
}
