package history

import (
	"bytes"
	"crypto/sha256"
)

// Value is the value of one put. Large ones are kept as their size and SHA-256, so that a long history fits in memory.
type Value struct {
	size int
	raw  []byte // nil if hashed
	sum  [sha256.Size]byte
}

func newValue(b []byte, hashOver int) Value {
	if hashOver < 0 || len(b) <= hashOver {
		return Value{size: len(b), raw: b}
	}
	return Value{size: len(b), sum: sha256.Sum256(b)}
}

// Len is the size in bytes.
func (v Value) Len() int { return v.size }

// Bytes is the value itself; false if only its hash was kept.
func (v Value) Bytes() ([]byte, bool) { return v.raw, v.raw != nil || v.size == 0 }

// Equal compares the contents, also of a value with a hashed one.
func (v Value) Equal(w Value) bool {
	if v.size != w.size {
		return false
	}
	a, okA := v.Bytes()
	b, okB := w.Bytes()
	if okA && okB {
		return bytes.Equal(a, b)
	}
	return v.hash() == w.hash()
}

func (v Value) hash() [sha256.Size]byte {
	if b, ok := v.Bytes(); ok {
		return sha256.Sum256(b)
	}
	return v.sum
}
