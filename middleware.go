package grouphub

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// A User is whoever [Authenticate] found behind a request. A User without an ID is
// anonymous: it can connect, and has no group of its own.
type User struct {
	ID      string
	Data    any       // the application's own, shared by all who read it
	Expires time.Time // when its connections are closed with 4401; the zero time means never
}

// userKey is the context key of the User.
type userKey struct{}

// Authenticate returns middleware that asks fn who sends a request, and passes the
// request on with that [User] in its context. An error of fn ends the request with
// 401, and its text stays on the server; a [*Reject] chooses the status and the
// text. A User that has expired already gets 401 too. If two calls are nested, the inner
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
	if userID == "" {
		return ""
	}
	return userPrefix + encodeName(userID, maxName-len(userPrefix))
}
