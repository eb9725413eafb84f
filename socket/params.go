package socket

import (
	"encoding/json"
	"reflect"
	"strings"
)

// object reads the only parameter of an admin method, an object, into a struct. Keys are held
// to the struct's, each at most once, and as they are written: encoding/json alone
// would also take "Backend" for "backend". No parameter is an empty object.
func (c *call) object(into any) error {
	value := c.param(0)
	if value == nil {
		return nil
	}
	fields, err := members(value)
	if err != nil {
		return badParam("params[0]", "want %v", err)
	}
	for _, f := range fields {
		if !hasField(into, f.key) {
			return badParam("params[0]", "unknown member %q", shorten(f.key))
		}
	}
	if err := json.Unmarshal(value, into); err != nil {
		return badParam("params[0]", "%v", err)
	}
	return nil
}

// hasField reports whether the struct that into points to has key as a JSON name.
func hasField(into any, key string) bool {
	for field := range reflect.TypeOf(into).Elem().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == key {
			return true
		}
	}
	return false
}
