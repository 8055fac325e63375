package grouphub_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A stranger can send as many positions as fit into a request. Those beyond what is kept are
// like positions that nobody knows.
func TestPositionsBeyondWhatIsKeptAreResyncs(t *testing.T) {
	const positions = 9_990
	for name, padding := range map[string]string{"many": "", "long": strings.Repeat("x", 240)} {
		t.Run(name, func(t *testing.T) {
			hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { return c.Join("first") },
				Events:  grouphub.Events{"n": grouphub.Forward()},
			}})
			handed := make(chan *grouphub.Conn, 1)
			c := hubtest.Dial(t, hub, "/?resume=")
			position := c.ExpectEvent("grouphub.position").ID
			sendNumbers(t, hub, "first", 1, 2)
			expectNumbers(t, c, 1, 2)

			query := fmt.Append(nil, "room=lobby&resume=", url.QueryEscape("first@"+position))
			for i := range min(positions, 500_000/(40+len(padding))) {
				query = fmt.Appendf(query, "&resume=%d%s%%40epoch.1.nonce", i, padding)
			}
			query = append(query, "&last=value"...)
			c = hubtest.Dial(t, hub.Handler(grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error {
					handed <- c
					if err := c.Join("first"); err != nil {
						return err
					}
					if err := c.Join("beyond"); err != nil {
						return err
					}
					return c.Join("0" + padding)
				},
				Events: grouphub.Events{"n": grouphub.Forward()},
			}), "/ws?"+string(query))
			expectNumbers(t, c, 1, 2) // the first is kept
			c.ExpectEvent("grouphub.position")
			for _, group := range []string{"beyond", "0" + padding} {
				c.Expect(fmt.Sprintf(`{"type":"resync","group":"%s"}`, group))
				c.ExpectEvent("grouphub.position")
			}
			r := (<-handed).Request()
			if r.URL.RawQuery != "room=lobby&last=value" || r.RequestURI != "/ws?room=lobby&last=value" || r.FormValue("room") != "lobby" {
				t.Errorf("of the URL %d bytes are kept: %.100s", len(r.RequestURI), r.RequestURI)
			}
		})
	}
}

func TestARequestOfWhichTooMuchWouldBeKeptGets431(t *testing.T) {
	hub := newHub(t, nil)
	for _, test := range []struct {
		name   string
		header http.Header
		path   string
	}{
		{"a large header", http.Header{"Cookie": {strings.Repeat("x", 900<<10)}}, "/"},
		{"many headers", http.Header{"X-Many": strings.Split(strings.Repeat("value ", 9_000), " ")}, "/"},
		{"a long URL", nil, "/?x=" + strings.Repeat("x", 40<<10)},
	} {
		response := hubtest.DialRefused(t, hub, test.path, hubtest.WithHeader(test.header))
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: %s, %v", test.name, response.Status, err)
		}
		wantOneLine(t, string(body), "32 KiB")
	}
	if n := hub.Stats().Rejected; n != 3 {
		t.Errorf("%d rejected", n)
	}
	// What browsers and proxies send is far from that.
	hubtest.Dial(t, hub, "/?x="+strings.Repeat("x", 8<<10), hubtest.WithHeader(http.Header{"Cookie": {strings.Repeat("x", 16<<10)}}))
}
