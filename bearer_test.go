package grouphub_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// bearer takes "ann-token" for Ann's.
var bearer = grouphub.Bearer(func(_ context.Context, token string) (grouphub.User, error) {
	id, ok := strings.CutSuffix(token, "-token")
	if !ok {
		return grouphub.User{}, errors.New("no token of ours")
	}
	return grouphub.User{ID: id}, nil
})

func TestBearerReadsHeaderThenSubprotocolThenParameter(t *testing.T) {
	for _, test := range []struct {
		name, header, protocols, query string
		user                           string // "": refused
	}{
		{name: "nothing"},
		{name: "header", header: "Bearer ann-token", user: "ann"},
		{name: "scheme in any case", header: "bearer  ann-token ", user: "ann"},
		{name: "another scheme", header: "Basic ann-token"},
		{name: "an unknown token", header: "Bearer what"},
		{name: "subprotocol", protocols: "grouphub.bearer.ann-token", user: "ann"},
		{name: "subprotocol among others", protocols: "chat.v1, grouphub.bearer.ann-token", user: "ann"},
		{name: "empty subprotocol", protocols: "grouphub.bearer."},
		{name: "parameter", query: "?access_token=ann-token", user: "ann"},
		{name: "escaped parameter", query: "?x=1&access%5Ftoken=ann%2Dtoken", user: "ann"},
		{name: "header first", header: "Bearer ann-token", protocols: "grouphub.bearer.bob-token", query: "?access_token=eve-token", user: "ann"},
		{name: "then subprotocol", header: "Basic x", protocols: "grouphub.bearer.bob-token", query: "?access_token=eve-token", user: "bob"},
		{name: "a bad header is not passed over", header: "Bearer what", query: "?access_token=ann-token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/path"+test.query, nil)
			if test.header != "" {
				r.Header.Set("Authorization", test.header)
			}
			if test.protocols != "" {
				r.Header.Set("Sec-WebSocket-Protocol", test.protocols)
			}
			before := r.URL.String()
			var user grouphub.User
			var passedOn string
			answer := httptest.NewRecorder()
			grouphub.Authenticate(bearer)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				user, _ = grouphub.UserFrom(r.Context())
				passedOn = r.URL.String() + r.RequestURI
			})).ServeHTTP(answer, r)
			switch {
			case user.ID != test.user:
				t.Errorf("it is %q's, want %q", user.ID, test.user)
			case test.user == "" && answer.Code != 401:
				t.Errorf("answered by %d", answer.Code)
			case r.URL.String() != before:
				t.Error("the caller's request was changed")
			case strings.Contains(passedOn, "token"):
				t.Errorf("the token is passed on in %s", passedOn)
			}
		})
	}
}

func TestASubprotocolWithATokenIsChosenOnlyWhereThereIsNoOther(t *testing.T) {
	const token = "grouphub.bearer.ann-token"
	conns := make(chan *grouphub.Conn, 1)
	connect := func(c *grouphub.Conn) error { conns <- c; return nil }
	hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{Connect: connect, Subprotocols: []string{"chat.v2", "chat.v1"}}})
	plain := hub.Handler(grouphub.Consumer{Connect: connect})
	for _, test := range []struct {
		handler http.Handler
		offered []string
		chosen  string // in the answer
		known   string // to the application
	}{
		{hub, []string{token, "chat.v1"}, "chat.v1", "chat.v1"},
		{hub, []string{"chat.v1", "chat.v2", token}, "chat.v2", "chat.v2"},
		{hub, []string{token}, token, ""},
		{hub, []string{"chat.v9", token}, token, ""},
		{plain, []string{token}, token, ""},
	} {
		s := serve(t, grouphub.Authenticate(bearer)(test.handler))
		client := s.dialWith(&websocket.Dialer{Subprotocols: test.offered}, "/?access_token=eve-token")
		c := <-conns
		if client.Subprotocol() != test.chosen || c.Subprotocol() != test.known || c.User().ID != "ann" {
			t.Errorf("of %q %q was chosen, %q for the application; it is %q's", test.offered, client.Subprotocol(), c.Subprotocol(), c.User().ID)
		}
		if kept := c.Request().Header.Get("Sec-WebSocket-Protocol"); strings.Contains(kept, "token") {
			t.Errorf("the connection keeps %q", kept)
		}
		client.Close()
	}
}

func TestTokensForStreamsAndWhatTheyPost(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error {
		return c.Send([]byte(c.User().ID + ": " + string(m.Data) + " " + c.Request().URL.String()))
	}})
	h := grouphub.Authenticate(bearer)(hub)
	c := hubtest.Dial(t, h, "/?access_token=ann-token&room=1", hubtest.AsStream()) // and posts so
	c.Send("hello")
	c.Expect("ann: hello /?room=1")
	header := hubtest.WithHeader(http.Header{"Authorization": {"Bearer bob-token"}})
	c = hubtest.Dial(t, h, "/?room=2", header, hubtest.AsStream())
	c.Send("hello")
	c.Expect("bob: hello /?room=2")
}

func TestNoTokenGetsIntoALog(t *testing.T) {
	var log safeBuffer
	hub := newHub(t, &grouphub.Options{
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Consumer: grouphub.Consumer{
			Accept: func(r *http.Request) error {
				if r.Header.Get("Refuse") != "" {
					return errors.New("not you")
				}
				return nil
			},
			Connect: func(c *grouphub.Conn) error { return errors.New(c.Request().URL.String()) },
		}})
	h := grouphub.Authenticate(bearer)(hub)
	const query = "/?access_token=secret-token"
	protocol := http.Header{"Sec-Websocket-Protocol": {"grouphub.bearer.secret-token"}}
	hubtest.Dial(t, h, query).ExpectClose(1011)
	hubtest.Dial(t, h, "/", hubtest.WithHeader(protocol)).ExpectClose(1011)
	refused := protocol.Clone()
	refused.Set("Refuse", "yes")
	hubtest.DialRefused(t, h, query, hubtest.WithHeader(refused))
	hubtest.DialRefused(t, h, "/?access_token=secret-other")
	if text := log.String(); strings.Contains(text, "secret") || !strings.Contains(text, "request refused") {
		t.Errorf("the log has:\n%s", text)
	}
}
