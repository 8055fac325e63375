package redis

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
)

// The first byte of whatever goes through Redis says what follows. A later version of
// the format gets a byte of its own.
const (
	formatPlain    = 1 // the payload
	formatSealed   = 2 // nonce, AES-256-GCM ciphertext, tag
	formatNumbered = 3 // a position, then one of the others
	formatStamped  = 4 // as formatSealed, of a stamp and the payload of a publication
)

var (
	errUnknownFormat = errors.New("unknown format, perhaps of a newer version")
	errOtherFormat   = errors.New("sealed for something else, or by an older version")
	errNotSealed     = errors.New("not sealed, and this layer has encryption keys")
	errUnknownKey    = errors.New("sealed under an unknown key, or for another name")
)

// A sealer wraps payloads for Redis, and encrypts them if it has keys.
type sealer struct {
	keys []cipher.AEAD // the first seals
}

func newSealer(keys []string) (*sealer, error) {
	s := &sealer{}
	for i, key := range keys {
		if key == "" {
			return nil, fmt.Errorf("grouphub: encryption key %d is empty", i)
		}
		secret, err := hkdf.Key(sha256.New, []byte(key), nil, "grouphub redis layer", 32)
		if err != nil {
			return nil, fmt.Errorf("grouphub: encryption key %d: %w", i, err)
		}
		block, err := aes.NewCipher(secret)
		if err != nil {
			return nil, fmt.Errorf("grouphub: encryption key %d: %w", i, err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("grouphub: encryption key %d: %w", i, err)
		}
		s.keys = append(s.keys, aead)
	}
	return s, nil
}

// seal copies the payload. Sealed for one name it opens under no other, so nobody can
// move it to another queue or holder.
func (s *sealer) seal(name string, payload []byte) []byte {
	if len(s.keys) == 0 {
		return append(append(make([]byte, 0, 1+len(payload)), formatPlain), payload...)
	}
	return s.sealAs(formatSealed, name, payload)
}

// sealAs encrypts under the first key, which has to exist.
func (s *sealer) sealAs(format byte, name string, payload []byte) []byte {
	sealed := append(make([]byte, 0, 1+len(payload)+s.keys[0].Overhead()), format)
	return s.keys[0].Seal(sealed, nil, payload, []byte(name))
}

// open returns what was sealed, perhaps as a part of the slice.
func (s *sealer) open(name string, sealed []byte) ([]byte, error) {
	if len(s.keys) == 0 && len(sealed) > 0 && sealed[0] == formatPlain {
		return sealed[1:], nil
	}
	return s.openAs(formatSealed, name, sealed)
}

// openAs decrypts what has a format.
func (s *sealer) openAs(format byte, name string, sealed []byte) ([]byte, error) {
	switch {
	case len(sealed) == 0 || sealed[0] < formatPlain || sealed[0] > formatStamped:
		return nil, errUnknownFormat
	case sealed[0] == formatPlain:
		return nil, errNotSealed
	case sealed[0] != format && len(s.keys) > 0:
		return nil, errOtherFormat
	}
	for _, key := range s.keys {
		if payload, err := key.Open(nil, nil, sealed[1:], []byte(name)); err == nil {
			return payload, nil
		}
	}
	return nil, errUnknownKey
}
