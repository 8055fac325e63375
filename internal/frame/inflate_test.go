package frame

import (
	"bytes"
	"compress/flate"
	"errors"
	"strings"
	"testing"
)

// blocks compresses each part as a stream that ends with a final block.
func blocks(t *testing.T, parts ...string) []byte {
	var out bytes.Buffer
	for _, part := range parts {
		w, err := flate.NewWriter(&out, flate.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(part))
		w.Close()
	}
	return out.Bytes()
}

func TestInflateReadsAMessageToItsEnd(t *testing.T) {
	long := strings.Repeat("hello world ", 10_000)
	for name, test := range map[string]struct {
		packed []byte
		want   string
	}{
		"as this side compresses":      {deflate([]byte(long)), long},
		"one final block":              {blocks(t, long), long},
		"a final block and its byte":   {append(blocks(t, "hello"), 0), "hello"},
		"two final blocks":             {blocks(t, "hello ", "world"), "hello world"},
		"three, the second empty":      {blocks(t, "hello ", "", long), "hello " + long},
		"a final block, and no other":  {append(blocks(t, "hello "), deflate([]byte("world"))...), "hello world"},
		"the RFC's, 7.2.3.1":           {[]byte{0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00}, "Hello"},
		"the RFC's with a final block": {[]byte{0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00}, "Hello"},
		"the RFC's with two blocks":    {[]byte{0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00}, "Hello"},
		"empty":                        {[]byte{0}, ""},
	} {
		got, err := Inflate(bytes.NewReader(test.packed), int64(len(test.want)))
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %.20q of %d bytes, %v", name, got, len(got), err)
		}
		if len(test.want) > 0 {
			if _, err := Inflate(bytes.NewReader(test.packed), int64(len(test.want)-1)); !errors.Is(err, ErrTooBig) {
				t.Errorf("%s: past the limit: %v", name, err)
			}
		}
	}
	if _, err := Inflate(strings.NewReader("\xff\xff\xff"), 100); !errors.As(err, new(flate.CorruptInputError)) {
		t.Errorf("garbage: %v", err)
	}
}
