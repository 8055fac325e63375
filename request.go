package grouphub

import (
	"encoding/binary"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"unique"
)

// commonHeaders are the headers in which all browsers of one version send the same. They are packed in
// this order.
var commonHeaders = [...]string{
	"Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Connection", "Dnt", "Origin", "Pragma",
	"Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Gpc", "Sec-Websocket-Extensions",
	"Sec-Websocket-Version", "Upgrade", "User-Agent", "X-Forwarded-Host", "X-Forwarded-Proto",
}

// commonHeaderIndex says where in commonHeaders a header is.
var commonHeaderIndex = func() map[string]int {
	m := make(map[string]int)
	for i, key := range commonHeaders {
		m[key] = i
	}
	return m
}()

// A keptRequest is a request that is packed while nobody has asked for it. Its methods may be called
// concurrently.
type keptRequest struct {
	request *http.Request // static

	mu     sync.Mutex
	asked  bool
	packed packedRequest
}

// keep is called once, before the other methods.
func (k *keptRequest) keep(r *http.Request) { k.request = r }

// pathValue returns the request's value for a wildcard.
func (k *keptRequest) pathValue(name string) string { return k.request.PathValue(name) }

// pattern is that of the request's route, "" if its router did not say.
func (k *keptRequest) pattern() string { return k.request.Pattern }

// get returns the request as it was before it was packed. It is not packed again.
func (k *keptRequest) get() *http.Request {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = true
	k.packed.restore(k.request)
	return k.request
}

// pack saves a kilobyte. It does nothing if somebody has asked for the request, and so may look at it
// at any time.
func (k *keptRequest) pack() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.asked {
		k.packed = packRequest(k.request)
	}
}

// A packedRequest is what was taken out of a request: its header, and its URL if that can be made from
// the request line again. The common headers and the others are one string each, which has for
// each key its bytes, the number of its values, and the bytes of each value, with lengths before
// the bytes. Requests with the same common headers share that string, so that little is left of
// a browser's kilobyte. The zero value has taken nothing.
type packedRequest struct {
	alike unique.Handle[string]
	own   string
}

// A packBuffer is the memory that packRequest works in. On the stack, it would make the stack grow.
type packBuffer struct {
	alike [len(commonHeaders)][]string
	bytes [1024]byte
}

var packBuffers = sync.Pool{New: func() any { return new(packBuffer) }}

// packRequest takes out of a request what restore puts back.
func packRequest(r *http.Request) packedRequest {
	s := packBuffers.Get().(*packBuffer)
	defer packBuffers.Put(s)
	own := s.bytes[:0]
	for key, values := range r.Header {
		if i, ok := commonHeaderIndex[key]; ok && values != nil {
			s.alike[i] = values
		} else {
			own = appendHeader(own, key, values)
		}
	}
	p := packedRequest{own: string(own)}
	common := s.bytes[:0]
	for i, values := range s.alike {
		if values != nil {
			common = appendHeader(common, commonHeaders[i], values)
		}
	}
	clear(s.alike[:])
	p.alike = unique.Make(string(common))
	r.Header = nil
	if saysURL(r.RequestURI, r.URL) {
		r.URL = nil
	}
	return p
}

// restore puts back what was taken. The strings of the header share memory with other requests'.
func (p *packedRequest) restore(r *http.Request) {
	if p.alike == (unique.Handle[string]{}) {
		return
	}
	r.Header = make(http.Header)
	unpackHeader(p.alike.Value(), r.Header)
	unpackHeader(p.own, r.Header)
	if r.URL == nil {
		r.URL, _ = url.ParseRequestURI(r.RequestURI) // as net/http has done
	}
	*p = packedRequest{}
}

// saysURL reports whether parsing a request line's URI gives this URL.
func saysURL(uri string, u *url.URL) bool {
	path, query, asks := strings.Cut(uri, "?")
	rest := *u // RawPath among it, which few have
	rest.Path, rest.RawQuery, rest.ForceQuery = "", "", false
	return rest == url.URL{} && strings.HasPrefix(path, "/") && u.EscapedPath() == path &&
		u.RawQuery == query && u.ForceQuery == (asks && query == "")
}

func appendHeader(b []byte, key string, values []string) []byte {
	b = appendLengthAndString(b, key)
	b = binary.AppendUvarint(b, uint64(len(values)))
	for _, v := range values {
		b = appendLengthAndString(b, v)
	}
	return b
}

func appendLengthAndString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// unpackHeader adds to a header what was packed.
func unpackHeader(rest string, h http.Header) {
	number := func() int {
		n, shift := uint64(0), 0
		for i := 0; ; i++ {
			n |= uint64(rest[i]&0x7f) << shift
			if rest[i] < 0x80 {
				rest = rest[i+1:]
				return int(n)
			}
			shift += 7
		}
	}
	text := func() (s string) {
		n := number()
		s, rest = rest[:n], rest[n:]
		return s
	}
	for rest != "" {
		key := text()
		values := make([]string, number())
		for i := range values {
			values[i] = text()
		}
		h[key] = values
	}
}
