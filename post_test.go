package grouphub_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

// echoing returns a hub whose connections are sent their own messages, and the URL at which
// requests of any user are served: the user is in the header X-User.
func echoing(t *testing.T, options grouphub.Options) string {
	options.Consumer = grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	}
	authenticate := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		return grouphub.User{ID: r.Header.Get("X-User")}, nil
	})
	hub := newHub(t, &options)
	eventually(t, func() bool { return hub.Stats().LayerUp }, "the layer is not up")
	s := httptest.NewServer(authenticate(hub))
	t.Cleanup(s.Close)
	return s.URL
}

func TestPostIsAMessageOnAnyHubOfTheLayer(t *testing.T) {
	server := redistest.Start(t)
	one := echoing(t, grouphub.Options{Layer: redisLayer(t, server.URL(), nil)})
	two := echoing(t, grouphub.Options{Layer: redisLayer(t, server.URL(), nil)})
	source := &eventSource{t: t}
	source.connect(one)
	token := source.expect("grouphub.open").data
	for _, text := range []string{"one", "two", "three"} {
		for _, url := range []string{one, two} {
			if status := post(t, url, token, "", text); status != http.StatusNoContent {
				t.Errorf("POST: %d", status)
			}
			if b := source.expect(""); b.data != text {
				t.Errorf("got %q, want %q", b.data, text)
			}
		}
	}
}

func TestPostThatIsRepeatedIsOneMessage(t *testing.T) {
	url := echoing(t, grouphub.Options{})
	source := &eventSource{t: t}
	source.connect(url)
	token := source.expect("grouphub.open").data
	for _, seq := range []string{"1", "1", "2", "1", "2", "7"} {
		if status := post(t, url, token, seq, "number "+seq); status != http.StatusNoContent {
			t.Errorf("POST of number %s: %d", seq, status)
		}
	}
	for _, want := range []string{"number 1", "number 2", "number 7"} {
		if b := source.expect(""); b.data != want {
			t.Errorf("got %q, want %q", b.data, want)
		}
	}
}

func TestPostIsRefusedAndNothingElseHappens(t *testing.T) {
	t.Parallel()
	url := echoing(t, grouphub.Options{MaxMessageSize: 10})
	source := &eventSource{t: t}
	source.connect(url)
	token := source.expect("grouphub.open").data
	channel, _, _ := strings.Cut(token, ".")
	other := &eventSource{t: t}
	other.connect(url)
	otherChannel, _, _ := strings.Cut(other.expect("grouphub.open").data, ".")
	_, secret, _ := strings.Cut(token, ".")
	for name, test := range map[string]struct {
		token, seq, text, user string
		status                 int
	}{
		"without a token":               {"", "", "x", "", 400},
		"with a token that is none":     {"x", "", "x", "", 410},
		"without a secret":              {channel + ".", "", "x", "", 403},
		"with a wrong secret":           {channel + ".AAAA", "", "x", "", 403},
		"with the secret of another":    {otherChannel + "." + secret, "", "x", "", 403},
		"to a stream that never was":    {channel + "0." + secret, "", "x", "", 410},
		"of another user":               {token, "", "x", "bob", 403},
		"that is too large":             {token, "", strings.Repeat("x", 11), "", 413},
		"that is not UTF-8":             {token, "", "\xff", "", 400},
		"with a number that is no such": {token, "one", "x", "", 400},
	} {
		r := httptest.NewRequest("POST", url, strings.NewReader(test.text))
		r.RequestURI = ""
		r.Header.Set("X-User", test.user)
		if test.token != "" {
			r.Header.Set("Grouphub-Stream", test.token)
		}
		if test.seq != "" {
			r.Header.Set("Grouphub-Seq", test.seq)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != test.status {
			t.Errorf("a POST %s: %d, want %d", name, answer.StatusCode, test.status)
		}
	}
	if status := post(t, url, token, "", "fine"); status != http.StatusNoContent {
		t.Errorf("a POST with nothing wrong: %d", status)
	}
	if b := source.expect(""); b.data != "fine" {
		t.Errorf("got %q", b.data)
	}
	source.cut()
}

func TestPostToAStreamThatHasEndedIsGone(t *testing.T) {
	gone := make(chan struct{})
	hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{
		Disconnect: func(context.Context, *grouphub.Conn, int) { close(gone) },
	}})
	s := httptest.NewServer(hub)
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	token := source.expect("grouphub.open").data
	source.cut()
	<-gone
	if status := post(t, s.URL, token, "", "x"); status != http.StatusGone {
		t.Errorf("POST: %d, want 410", status)
	}
}

func TestPostOfAnotherOriginIsAllowedAsTheStreamIs(t *testing.T) {
	hub := newHub(t, &grouphub.Options{})
	// A browser sends no credentials with a preflight, so Authenticate passes it on.
	nobody := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		if r.Method == http.MethodOptions {
			return grouphub.User{}, errors.New("no credentials")
		}
		return grouphub.User{}, nil
	})
	s := httptest.NewServer(grouphub.AllowOrigins("https://page.example")(nobody(hub)))
	defer s.Close()
	ask := func(method, origin string, header ...string) *http.Response {
		r := httptest.NewRequest(method, s.URL, nil)
		r.RequestURI = ""
		r.Header.Set("Origin", origin)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	preflight := []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "grouphub-stream"}
	for _, test := range []struct {
		method, origin string
		header         []string
		status         int
	}{
		{"OPTIONS", "https://page.example", preflight, 204},
		{"POST", "https://page.example", nil, 400}, // for want of a token, which the page may read
		{"GET", "https://page.example", []string{"Accept", "text/event-stream"}, 200},
		{"OPTIONS", "https://evil.example", preflight, 403},
		{"POST", "https://evil.example", nil, 403},
		{"GET", "https://evil.example", []string{"Accept", "text/event-stream"}, 403},
	} {
		answer := ask(test.method, test.origin, test.header...)
		if answer.StatusCode != test.status {
			t.Errorf("%s from %s: %s, want %d", test.method, test.origin, answer.Status, test.status)
		}
		want := ""
		if test.status != 403 {
			want = test.origin
		}
		if got := answer.Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("%s from %s may be read by %q, want %q", test.method, test.origin, got, want)
		}
		if test.status == 204 && !strings.Contains(answer.Header.Get("Access-Control-Allow-Headers"), "Grouphub-Stream") {
			t.Errorf("preflight: %v", answer.Header)
		}
	}
}
