package outbox

import (
	"sync"
	"syscall"
)

// A Writer makes one write(2) after another, to sockets that Go's poller has too. It is not
// safe for concurrent use. That it can be used again is what it is for: each outbox with one
// of its own would need more memory, and each push with a new one an allocation.
type Writer struct {
	data []byte
	n    int
	err  error
	call func(fd uintptr) bool
}

var writers = sync.Pool{New: func() any {
	w := new(Writer)
	w.call = func(fd uintptr) bool {
		w.n, w.err = writeSocket(fd, w.data)
		return true // false would wait for the peer
	}
	return w
}}

// BorrowWriter returns a writer, which is to be given back with Return.
func BorrowWriter() *Writer { return writers.Get().(*Writer) }

// Return gives the writer back.
func (w *Writer) Return() { writers.Put(w) }

// write writes as much as the kernel takes at once.
func (w *Writer) write(raw syscall.RawConn, data []byte) (int, error) {
	w.data, w.n, w.err = data, 0, nil
	err := raw.Write(w.call)
	w.data = nil
	if err == nil {
		err = w.err
	}
	return w.n, err
}
