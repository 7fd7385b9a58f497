package wire

import "encoding/binary"

// UDPHeaderSize is the length of a datagram's header, and so the shortest
// datagram of ours.
//
//	byte 0-3    "tfQ1" in a request, "tfA1" in an answer
//	byte 4      flags: 1 is "do not answer"
//	byte 5      part: 0, or 1 for the second datagram of a pair
//	byte 6-7    0
//	byte 8-15   token of the traffic that sent it, big endian
//	byte 16-23  id of the attempt in its traffic, big endian
//	byte 24-    padding: a request and its answer are equally long
const UDPHeaderSize = 24

const (
	udpRequest = 0x74665131 // "tfQ1"
	udpAnswer  = 0x74664131 // "tfA1"
	udpOneWay  = 1
)

// UDP is the header of a datagram. Token and ID together tell an answer from
// one to an earlier attempt, or to somebody else's.
type UDP struct {
	Answer bool
	OneWay bool // of a request: do not answer
	Part   uint8
	Token  uint64
	ID     uint64
}

// Put writes the header to the start of b, which must be at least
// UDPHeaderSize long.
func (u UDP) Put(b []byte) {
	magic, flags := uint32(udpRequest), byte(0)
	if u.Answer {
		magic = udpAnswer
	}
	if u.OneWay {
		flags = udpOneWay
	}
	binary.BigEndian.PutUint32(b, magic)
	b[4], b[5], b[6], b[7] = flags, u.Part, 0, 0
	binary.BigEndian.PutUint64(b[8:], u.Token)
	binary.BigEndian.PutUint64(b[16:], u.ID)
}

// ParseUDP reads a header. ok is false where b does not begin with one.
func ParseUDP(b []byte) (u UDP, ok bool) {
	if len(b) < UDPHeaderSize {
		return UDP{}, false
	}
	magic := binary.BigEndian.Uint32(b)
	if magic != udpRequest && magic != udpAnswer || b[4] > udpOneWay || b[5] > 1 || b[6] != 0 || b[7] != 0 {
		return UDP{}, false
	}
	return UDP{
		Answer: magic == udpAnswer,
		OneWay: b[4] == udpOneWay,
		Part:   b[5],
		Token:  binary.BigEndian.Uint64(b[8:]),
		ID:     binary.BigEndian.Uint64(b[16:]),
	}, true
}
