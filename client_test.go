package grouphub_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
)

func clientJS(t *testing.T, method string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	return clientJSAt(t, method, "/client.js", header...)
}

func clientJSAt(t *testing.T, method, url string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, url, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	grouphub.ClientJS().ServeHTTP(w, r)
	return w
}

func TestClientJSIsServedFromTheProgram(t *testing.T) {
	file, err := os.ReadFile("client.js")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	for method, body := range map[string]string{"GET": string(file), "HEAD": ""} {
		w := clientJS(t, method)
		if w.Code != http.StatusOK || w.Body.String() != body {
			t.Errorf("%s: %d with %d bytes, want %d", method, w.Code, w.Body.Len(), len(body))
		}
		for key, want := range map[string]string{
			"Content-Type":   "text/javascript; charset=utf-8",
			"Content-Length": fmt.Sprint(len(file)),
			"Cache-Control":  "no-cache",
			// A sandboxed page has no origin of its own that could be named.
			"Access-Control-Allow-Origin": "*",
		} {
			if got := w.Header().Get(key); got != want {
				t.Errorf("%s: %s is %q, want %q", method, key, got, want)
			}
		}
	}
}

func TestClientJSServesItsPartForStreamsAtTheSameAddress(t *testing.T) {
	file, err := os.ReadFile("client.stream.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"?stream", "?stream=1764355", "?v=2&stream="} {
		w := clientJSAt(t, "GET", "/js/client.js"+query)
		if w.Code != http.StatusOK || w.Body.String() != string(file) {
			t.Errorf("%s: %d with %d bytes, want %d", query, w.Code, w.Body.Len(), len(file))
		}
		if etag := w.Header().Get("ETag"); etag == clientJS(t, "GET").Header().Get("ETag") {
			t.Error("both have the same ETag")
		}
	}
}

func TestClientJSIsLoadedAgainOnlyIfItHasChanged(t *testing.T) {
	etag := clientJS(t, "GET").Header().Get("ETag")
	if !strings.HasPrefix(etag, `"`) || len(etag) < 20 {
		t.Fatalf("the ETag %s is not a strong one", etag)
	}
	for condition, want := range map[string]int{
		etag:             http.StatusNotModified,
		`"old", ` + etag: http.StatusNotModified,
		"W/" + etag:      http.StatusNotModified, // a proxy that compresses makes this of it
		`"old"`:          http.StatusOK,
	} {
		for _, method := range []string{"GET", "HEAD"} {
			w := clientJS(t, method, "If-None-Match", condition)
			if w.Code != want || want == http.StatusNotModified && w.Body.Len() > 0 {
				t.Errorf("%s with If-None-Match: %s: %d with %d bytes, want %d", method, condition, w.Code, w.Body.Len(), want)
			}
			if w.Header().Get("ETag") != etag || w.Header().Get("Cache-Control") != "no-cache" {
				t.Errorf("%s with If-None-Match: %s: %v", method, condition, w.Header())
			}
		}
	}
}

func TestClientJSCanOnlyBeRead(t *testing.T) {
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		w := clientJS(t, method)
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d, Allow: %q", method, w.Code, w.Header().Get("Allow"))
		}
	}
}
