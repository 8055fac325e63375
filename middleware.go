package grouphub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/internal/name"
	"github.com/seed-29c60982/grouphub/internal/origin"
)

// A User is whoever [Authenticate] found behind a request. Without an ID it is
// anonymous: it connects, and has no group of its own.
type User struct {
	ID      string
	Data    any       // the application's own, shared by all who read it
	Expires time.Time // when its connections are closed with 4401; zero: never
}

// Context keys of this package.
type (
	userKey    struct{}
	originsKey struct{}
)

// Authenticate returns middleware that asks fn who sends a request, and passes the
// request on with that [User] in its context. An error of fn ends the request with
// 401, and its text stays on the server; a [*Reject] chooses the status and the
// text. A User that has expired already gets 401 too. Of two nested calls the inner
// one, which runs last, decides who the user is.
//
// Authenticate works for any handler, not only for a hub.
func Authenticate(fn func(r *http.Request) (User, error)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, err := fn(r)
			if err == nil && !user.Expires.IsZero() && !user.Expires.After(time.Now()) {
				err = errors.New("grouphub: authenticate: user has expired")
			}
			if err != nil {
				refuse(w, err, http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, user)))
		})
	}
}

// UserFrom returns the user that [Authenticate] put into a request's context, and
// whether it did. An anonymous user was put there too: look at its ID.
func UserFrom(ctx context.Context) (User, bool) {
	user, ok := ctx.Value(userKey{}).(User)
	return user, ok
}

// UserGroup returns the name of the group that every connection of a user is a
// member of, for GroupSend and GroupClose. Any two IDs have different groups, whatever
// bytes they are made of. The empty ID has none: its name is empty, and sending to it
// is [ErrInvalidName].
func UserGroup(userID string) string {
	return name.OfUser(userID)
}

// AllowOrigins returns middleware that lets browsers connect from pages of other
// origins than the server's own. A pattern is one of
//
//   - "https://example.com" or "https://example.com:8443": this scheme, host and port,
//   - "https://*.example.com": the subdomains of any depth, not example.com itself,
//   - "*": any page of anyone, with the user's cookies. Use it only where cookies
//     mean nothing.
//
// Scheme and host are compared without regard to case, and :80 of http and :443 of
// https may be left out. Patterns of nested calls add up. AllowOrigins panics if a
// pattern is none of the above.
func AllowOrigins(patterns ...string) func(http.Handler) http.Handler {
	allowed := make([]origin.Pattern, len(patterns))
	for i, p := range patterns {
		var ok bool
		if allowed[i], ok = origin.ParsePattern(p); !ok {
			panic(fmt.Sprintf("grouphub: AllowOrigins: %s is not an origin, such as https://example.com, "+
				"https://*.example.com, or *", quoted(p)))
		}
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			outer, _ := r.Context().Value(originsKey{}).([]origin.Pattern)
			all := slices.Concat(outer, allowed)
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), originsKey{}, all)))
		})
	}
}

// checkOrigin returns the *Reject for a request that a browser sent from a page of
// another origin, unless AllowOrigins names it. What has no Origin is no browser's.
func checkOrigin(r *http.Request) error {
	allowed, _ := r.Context().Value(originsKey{}).([]origin.Pattern)
	if fault := origin.Fault(r, allowed); fault != "" {
		return &Reject{http.StatusForbidden, fault}
	}
	return nil
}
