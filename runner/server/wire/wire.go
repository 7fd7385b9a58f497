// Package wire is the small request/response protocol that the load
// generator's TCP and UDP shapes speak with the servers in the pods. It is a
// leaf: both sides import it, and it imports nothing of ours.
//
// A request is a header of 12 bytes and a payload, a response a header of 8
// bytes and a payload. Numbers are big-endian:
//
//	request   'T' 'F' version flags  response payload bytes (4)  request payload bytes (4)
//	response  'T' 'F' version status response payload bytes (4)
//
// The client says in each request how long the answer shall be and which end
// the connection shall have, so that a server needs no set-up per traffic. On
// TCP any number of requests may follow each other on one connection; of their
// flags the last count.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the protocol's version, the third byte of each header.
const Version = 1

// Header lengths, in bytes.
const (
	RequestHeader  = 12
	ResponseHeader = 8
)

// MaxPayload bounds what a header may announce, in bytes: a stray client
// cannot make a server send without end.
const MaxPayload = 16 << 20

// Flags of a request: what the server does once the answer is sent. Without
// any it waits for another request, or for the client to close, and closes
// then as well.
type Flags uint8

const (
	// CloseFirst: the server closes at once, in order (FIN).
	CloseFirst Flags = 1 << iota
	// ResetFirst: the server reads one more byte, by which the client says
	// that it has the whole answer, and resets the connection then. The byte
	// is needed because a reset throws away what is not yet acknowledged.
	ResetFirst
	// NeverClose: the server does not close when the client does, nor ever by
	// itself.
	NeverClose

	known = CloseFirst | ResetFirst | NeverClose
)

// Done is the byte a client sends for ResetFirst.
const Done = '.'

// A Request is a request's header.
type Request struct {
	Flags    Flags
	Response uint32 // payload bytes the answer shall have
	Payload  uint32 // payload bytes that follow
}

// A Response is a response's header.
type Response struct {
	Status  uint8  // 0 is success; no other value is sent by this version
	Payload uint32 // payload bytes that follow
}

// Errors of the parsers. Both mean that the peer is not ours, or of another
// version.
var (
	ErrForeign  = errors.New("not a message of this protocol")
	ErrTooLarge = errors.New("payload too large")
)

// Append appends the header to b.
func (r Request) Append(b []byte) []byte {
	b = append(b, 'T', 'F', Version, byte(r.Flags))
	b = binary.BigEndian.AppendUint32(b, r.Response)
	return binary.BigEndian.AppendUint32(b, r.Payload)
}

// Append appends the header to b.
func (r Response) Append(b []byte) []byte {
	b = append(b, 'T', 'F', Version, r.Status)
	return binary.BigEndian.AppendUint32(b, r.Payload)
}

// ParseRequest reads the header in the first RequestHeader bytes of b, which
// must be there. It does not allocate unless it fails.
func ParseRequest(b []byte) (Request, error) {
	if err := check(b, RequestHeader); err != nil {
		return Request{}, err
	}
	r := Request{Flags: Flags(b[3]), Response: binary.BigEndian.Uint32(b[4:]), Payload: binary.BigEndian.Uint32(b[8:])}
	if r.Flags&^known != 0 {
		return Request{}, fmt.Errorf("parse request: unknown flags %#x: %w", uint8(r.Flags), ErrForeign)
	}
	if r.Response > MaxPayload || r.Payload > MaxPayload {
		return Request{}, fmt.Errorf("parse request: %w", ErrTooLarge)
	}
	return r, nil
}

// ParseResponse reads the header in the first ResponseHeader bytes of b, which
// must be there. It does not allocate unless it fails.
func ParseResponse(b []byte) (Response, error) {
	if err := check(b, ResponseHeader); err != nil {
		return Response{}, err
	}
	r := Response{Status: b[3], Payload: binary.BigEndian.Uint32(b[4:])}
	if r.Payload > MaxPayload {
		return Response{}, fmt.Errorf("parse response: %w", ErrTooLarge)
	}
	return r, nil
}

func check(b []byte, n int) error {
	if len(b) < n {
		return fmt.Errorf("parse header: have %d of %d bytes: %w", len(b), n, ErrForeign)
	}
	if b[0] != 'T' || b[1] != 'F' || b[2] != Version {
		return fmt.Errorf("parse header: begins with %x: %w", b[:3], ErrForeign)
	}
	return nil
}
