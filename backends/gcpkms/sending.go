package gcpkms

import (
	"errors"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec
	"google.golang.org/grpc/mem"

	"github.com/keyward/keyward/backends"
)

// codec encodes the messages of gRPC.
var codec = encoding.GetCodecV2("proto")

// errAbandoned: the call ended before its request was sent.
var errAbandoned = errors.New("the call ended before its request was sent")

// tryCodec encodes the request of one try. gRPC encodes a request once per call, when it has a connection and a token,
// and sends no byte of it before. So a try without a connection sends nothing, and its Sending does not begin.
type tryCodec struct {
	encoding.CodecV2
	sending *backends.Sending
	begun   bool
}

func (c *tryCodec) Marshal(v any) (mem.BufferSlice, error) {
	if !c.sending.Begin() {
		return nil, errAbandoned
	}
	c.begun = true
	return c.CodecV2.Marshal(v)
}
