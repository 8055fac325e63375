package frame

import (
	"bytes"
	"compress/flate"
	"sync"
)

// deflaters are kept because a new one needs more than half a megabyte.
var deflaters = sync.Pool{New: func() any {
	// Level 1, like gorilla: the point is bandwidth, at little CPU.
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

// deflate compresses a message without context takeover, which is what gorilla negotiates, so
// that one result serves every connection.
func deflate(payload []byte) []byte {
	var out bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	w.Reset(&out)
	w.Write(payload) // a bytes.Buffer does not fail
	w.Flush()
	deflaters.Put(w)
	return bytes.TrimSuffix(out.Bytes(), []byte{0, 0, 0xff, 0xff}) // RFC 7692, 7.2.1
}
