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

// ClientJS serves the browser client, an ES module without dependencies that is part
// of the program:
//
//	mux.Handle("GET /client.js", grouphub.ClientJS())
//
// Browsers ask each time whether it has changed, and load it again only if it has.
// The file client.d.ts says what it does.
func ClientJS() http.Handler {
	etag := fmt.Sprintf(`"%x"`, sha256.Sum256(clientJS))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "client.js can be read with GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", etag)
		// ServeContent answers conditional requests and ranges. No time is given to it, since
		// the ETag says more.
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(clientJS))
	})
}
