package frameworks

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/golang-jwt/jwt/v5"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// What follows is quoted in docs/authentication.md.

func accounts(sessions *scs.SessionManager, hub *grouphub.Hub, consumer grouphub.Consumer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		// … and here the password is checked.
		if err := sessions.RenewToken(r.Context()); err != nil {
			http.Error(w, "no session", http.StatusInternalServerError)
			return
		}
		sessions.Put(r.Context(), "user", r.FormValue("user"))
		sessions.Put(r.Context(), "session", rand.Text()) // a name for this session, which is no secret
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		user, session := sessions.GetString(r.Context(), "user"), sessions.GetString(r.Context(), "session")
		err := sessions.Destroy(r.Context()) // first the session, then its connections
		if err == nil && user != "" {
			err = hub.GroupClose(r.Context(), grouphub.UserGroup(user), 4401, "logged out", grouphub.OnlySession(session))
		}
		if err != nil {
			http.Error(w, "not logged out", http.StatusInternalServerError)
		}
	})
	authenticate := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		user := sessions.GetString(r.Context(), "user")
		if user == "" {
			return grouphub.User{}, &grouphub.Reject{Status: http.StatusUnauthorized, Reason: "log in first"}
		}
		return grouphub.User{
			ID:      user,
			Session: sessions.GetString(r.Context(), "session"),
			Expires: sessions.Deadline(r.Context()),
		}, nil
	})
	mux.Handle("/ws", authenticate(hub.Handler(consumer)))
	return sessions.LoadAndSave(mux)
}

// verify checks a token that was signed with a key of the application's own.
func verify(key []byte) func(context.Context, string) (grouphub.User, error) {
	return func(_ context.Context, token string) (grouphub.User, error) {
		var claims jwt.RegisteredClaims
		_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return key, nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
		if err != nil {
			return grouphub.User{}, err // the client gets 401, and not the error's text
		}
		if claims.Subject == "" {
			return grouphub.User{}, errors.New("the token names nobody")
		}
		return grouphub.User{ID: claims.Subject, Session: claims.ID, Expires: claims.ExpiresAt.Time}, nil
	}
}

func newAccountsHub(t *testing.T) *grouphub.Hub {
	hub := grouphub.New(nil)
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return hub
}

var greeting = grouphub.Consumer{
	Connect: func(c *grouphub.Conn) error { return c.Send([]byte("hello " + c.User().ID)) },
}

func TestLogoutOfOneSessionLeavesTheUsersOthersConnected(t *testing.T) {
	app := accounts(scs.New(), newAccountsHub(t), greeting)
	post := func(path string, cookie http.Header) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", path, strings.NewReader(url.Values{"user": {"ann"}}.Encode()))
		r.Header = cookie.Clone()
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		return w
	}
	login := func() http.Header {
		return http.Header{"Cookie": {strings.Split(post("/login", http.Header{}).Header().Get("Set-Cookie"), ";")[0]}}
	}
	laptop, phone := login(), login()
	onLaptop := hubtest.Dial(t, app, "/ws", hubtest.WithHeader(laptop))
	onPhone := hubtest.Dial(t, app, "/ws", hubtest.WithHeader(phone))
	onLaptop.Expect("hello ann")
	onPhone.Expect("hello ann")

	post("/logout", laptop)
	onLaptop.ExpectClose(4401)
	if refused := hubtest.DialRefused(t, app, "/ws", hubtest.WithHeader(laptop)); refused.StatusCode != http.StatusUnauthorized {
		t.Errorf("a session that has ended got %d", refused.StatusCode)
	}
	onPhone.ExpectNone(50 * time.Millisecond)
	hubtest.Dial(t, app, "/ws", hubtest.WithHeader(phone)).Expect("hello ann")
}

func TestTokenOfAJWTLibraryNamesTheUserUntilItExpires(t *testing.T) {
	key := []byte("a key that only the application has")
	app := grouphub.Authenticate(grouphub.Bearer(verify(key)))(newAccountsHub(t).Handler(greeting))
	sign := func(claims jwt.RegisteredClaims) string {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := sign(jwt.RegisteredClaims{Subject: "ann", ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour))})
	hubtest.Dial(t, app, "/?access_token="+good).Expect("hello ann")
	for name, token := range map[string]string{
		"has expired":       sign(jwt.RegisteredClaims{Subject: "ann", ExpiresAt: jwt.NewNumericDate(time.Now().Add(-time.Hour))}),
		"never expires":     sign(jwt.RegisteredClaims{Subject: "ann"}),
		"names nobody":      sign(jwt.RegisteredClaims{ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour))}),
		"has been tampered": good + "x",
	} {
		if refused := hubtest.DialRefused(t, app, "/?access_token="+token); refused.StatusCode != http.StatusUnauthorized {
			t.Errorf("a token that %s got %d", name, refused.StatusCode)
		}
	}
}
