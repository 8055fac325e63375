package grouphub_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// ask sends one request through the middleware and returns the answer, and the user
// that the handler behind it saw, if it was reached.
func ask(fn func(*http.Request) (grouphub.User, error)) (answer *httptest.ResponseRecorder, user grouphub.User, reached bool) {
	h := grouphub.Authenticate(fn)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		user, reached = grouphub.UserFrom(r.Context())
	}))
	answer = httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest("GET", "/", nil))
	return answer, user, reached
}

func TestAuthenticatePassesTheUserInTheContext(t *testing.T) {
	for _, want := range []grouphub.User{
		{ID: "7", Data: "data", Expires: time.Now().Add(time.Hour)},
		{ID: "7"},
		{Data: "anonymous"},
	} {
		_, got, reached := ask(func(*http.Request) (grouphub.User, error) { return want, nil })
		if !reached || got != want {
			t.Errorf("user in the context = %+v, %v, want %+v", got, reached, want)
		}
	}
	if user, ok := grouphub.UserFrom(t.Context()); ok || user != (grouphub.User{}) {
		t.Errorf("UserFrom without Authenticate = %+v, %v", user, ok)
	}
}

func TestTheInnerAuthenticateDecides(t *testing.T) {
	as := func(id string) func(http.Handler) http.Handler {
		return grouphub.Authenticate(func(*http.Request) (grouphub.User, error) { return grouphub.User{ID: id}, nil })
	}
	var got grouphub.User
	h := as("outer")(as("inner")(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got, _ = grouphub.UserFrom(r.Context())
	})))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if got.ID != "inner" {
		t.Errorf("user = %q, want the inner one", got.ID)
	}
}

func TestAuthenticateAnswersAnErrorWith401OrAsRejectSays(t *testing.T) {
	for _, test := range []struct {
		name   string
		err    error
		status int
		body   string
	}{
		{"an error keeps its text to itself", errors.New("no such key in postgres://secret"), 401, "Unauthorized"},
		{"a Reject chooses", &grouphub.Reject{Status: 429, Reason: "slow down"}, 429, "slow down"},
		{"a wrapped Reject chooses", fmt.Errorf("secret: %w", &grouphub.Reject{Status: 503, Reason: "later"}), 503, "later"},
		{"a Reject without a status", &grouphub.Reject{Reason: "who are you"}, 401, "who are you"},
		{"a Reject without a reason", &grouphub.Reject{Status: 403}, 403, "Forbidden"},
		{"a Reject with an unknown status", &grouphub.Reject{Status: 499}, 499, "refused"},
		{"a Reject may not redirect", &grouphub.Reject{Status: 302, Reason: "go"}, 401, "go"},
		{"a Reject may not succeed", &grouphub.Reject{Status: 200}, 401, "Unauthorized"},
		{"a Reject past the last status", &grouphub.Reject{Status: 600}, 401, "Unauthorized"},
		{"a reason is one line", &grouphub.Reject{Status: 400, Reason: "a\r\nb\x00\xff\n"}, 400, "a  b \ufffd"},
		{"a nil Reject is an error", (*grouphub.Reject)(nil), 401, "Unauthorized"},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, _, reached := ask(func(*http.Request) (grouphub.User, error) { return grouphub.User{ID: "7"}, test.err })
			if reached {
				t.Error("the handler was reached")
			}
			if answer.Code != test.status || answer.Body.String() != test.body+"\n" {
				t.Errorf("answer = %d %q, want %d %q", answer.Code, answer.Body, test.status, test.body+"\n")
			}
			if got := answer.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" {
				t.Errorf("Content-Type = %q", got)
			}
		})
	}
}

func TestAnExpiredUserGets401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			expires time.Time
			status  int
		}{
			{time.Now().Add(-time.Hour), 401},
			{time.Now(), 401},
			{time.Now().Add(1), 200},
			{time.Time{}, 200},
		} {
			answer, _, _ := ask(func(*http.Request) (grouphub.User, error) {
				return grouphub.User{ID: "7", Expires: test.expires}, nil
			})
			if answer.Code != test.status {
				t.Errorf("Expires %v at %v: %d, want %d", test.expires, time.Now(), answer.Code, test.status)
			}
		}
	})
}

// A pooled context is one that a framework uses again when the request is over.
type pooledContext struct{ context.Context }

func (c *pooledContext) Value(key any) any { return c.Context.Value(key) }

func TestUserStaysWhenTheRequestsContextIsSomebodyElses(t *testing.T) {
	pooled := new(pooledContext)
	conns := make(chan *grouphub.Conn, 1)
	hub := newHub(t, &grouphub.Options{
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{Presence: true} },
		Consumer: grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
			conns <- c
			return c.Join("all")
		}},
	})
	handler := authenticate(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pooled.Context = r.Context()
		hub.ServeHTTP(w, r.WithContext(pooled))
	}))
	dial := func(id string) *grouphub.Conn {
		hubtest.Dial(t, handler, "/?user="+id)
		return <-conns
	}
	ann := dial("ann")
	dial("bob")
	type ownKey struct{}
	for name, ctx := range map[string]context.Context{
		"the connection's context": ann.Context(), "the request's": ann.Request().Context(),
		"one that was made of it": context.WithValue(ann.Context(), ownKey{}, "value"),
	} {
		if user, ok := grouphub.UserFrom(ctx); !ok || user.ID != "ann" {
			t.Errorf("by %s ann's connection is %q's, %v", name, user.ID, ok)
		}
	}
	pooled.Context = nil
	if id := ann.User().ID; id != "ann" {
		t.Errorf("ann's connection is %q's", id)
	}
	members, err := hub.Members(t.Context(), "all")
	if err != nil || len(members) != 2 || members[0].UserID != "ann" || members[1].UserID != "bob" {
		t.Errorf("members are %v, %v", members, err)
	}
}

func TestUserGroupIsReadableAndFitsAnyID(t *testing.T) {
	long := strings.Repeat("é", 5000)
	sum := sha256.Sum256([]byte(long))
	for id, want := range map[string]string{
		"":                       "",
		"7":                      "!user/7",
		"ann@example.com":        "!user/ann@example.com",
		"Ann Müller 中":           "!user/Ann Müller 中",
		"100%":                   "!user/100%25",
		"a/b!c":                  "!user/a/b!c",
		"a\nb":                   "!user/a%0Ab",
		"\u0085":                 "!user/%C2%85",
		"\xff\ufffd":             "!user/%FF\ufffd",
		strings.Repeat("a", 249): "!user/" + strings.Repeat("a", 249),
		long:                     "!user/%sha256-" + hex.EncodeToString(sum[:]),
	} {
		if got := grouphub.UserGroup(id); got != want {
			t.Errorf("UserGroup(%.40q) = %.80q, want %.80q", id, got, want)
		}
	}
}

func TestWithUserIsTakenLikeOneThatAuthenticateHasFound(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{Events: grouphub.Events{"note": grouphub.Forward()}})
	user := grouphub.User{ID: "ann", Session: "s1", Data: "data"}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hub.ServeHTTP(w, r.WithContext(grouphub.WithUser(r.Context(), user)))
	})
	for _, opts := range [][]hubtest.DialOption{nil, {hubtest.AsStream()}} {
		client := hubtest.Dial(t, handler, "/", opts...)
		c := <-conns
		if got, ok := grouphub.UserFrom(c.Context()); c.User() != user || got != user || !ok {
			t.Errorf("the connection is %+v's, and its context's user %+v, %v", c.User(), got, ok)
		}
		send(t, hub, grouphub.UserGroup("ann"), "note", nil)
		client.ExpectEvent("note")
		client.Close()
	}
}
