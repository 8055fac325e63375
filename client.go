package grouphub

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"net/http"
	"time"
)

//go:embed client.js
var clientJS []byte

// clientStreamJS is the module that client.js loads when WebSockets do not get through.
//
//go:embed client.stream.js
var clientStreamJS []byte

// ClientJS serves the browser client, an ES module without dependencies that is part
// of the program:
//
//	mux.Handle("GET /client.js", grouphub.ClientJS())
//
// Browsers ask each time whether it has changed, and load it again only if it has. Pages
// of any origin may load it, sandboxed ones too, since it is the same for everybody. With the
// parameter stream in the URL, which client.js adds when it needs that, it is the part of the
// client that knows event streams. What the client does is written in client.d.ts.
func ClientJS() http.Handler {
	whole, stream := newModule(clientJS), newModule(clientStreamJS)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "client.js can be read with GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		if r.URL.Query().Has("stream") {
			stream.serve(w, r)
		} else {
			whole.serve(w, r)
		}
	})
}

// A module is JavaScript that is served.
type module struct {
	source []byte
	etag   string
}

func newModule(source []byte) module {
	return module{source, fmt.Sprintf(`"%x"`, sha256.Sum256(source))}
}

func (m module) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/javascript; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("ETag", m.etag)
	// Conditions and ranges; the time is unknown, and the ETag says more.
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.source))
}
