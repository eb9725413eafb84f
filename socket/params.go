package socket

import (
	"encoding/json"
	"reflect"
	"strings"

	"github.com/keyward/keyward/policy"
)

// object reads the only parameter of an admin method, an object, into a struct. Keys are held
// to the struct's, each at most once, and as they are written: encoding/json alone
// would also take "Backend" for "backend". No parameter is an empty object.
func (c *call) object(into any) error {
	value := c.param(0)
	if value == nil {
		return nil
	}
	if err := policy.OpenObject("", value, jsonNames(into)).Err(); err != nil {
		return badParam("params[0]", "%v", err)
	}
	if err := json.Unmarshal(value, into); err != nil {
		return badParam("params[0]", "%v", err)
	}
	return nil
}

// jsonNames are the JSON names of the fields of the struct that into points to.
func jsonNames(into any) (names []string) {
	for field := range reflect.TypeOf(into).Elem().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}
