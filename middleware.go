package grouphub

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// A User is whoever [Authenticate] found behind a request. A User without an ID is
// anonymous: it can connect, and has no group of its own.
type User struct {
	ID      string
	Session string    // which of the user's sessions this is, if they are to be told apart
	Info    any       // what others may know: its JSON is in [Member] and in presence events
	Data    any       // the application's own, shared by all who read it
	Expires time.Time // when its connections are closed with 4401; the zero time means never
}

// A middleware is one of this package's, in front of a handler.
type middleware struct {
	next  http.Handler
	serve func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

func (m *middleware) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.serve(w, r, m.next) }

// userKey is the context key of the User.
type userKey struct{}

// Authenticate returns middleware that asks fn who sends a request, and passes the
// request on with that [User] in its context. An error of fn ends the request with
// 401, and its text stays on the server, where it is logged as a warning; a [*Reject]
// chooses the status and the text, and is logged at debug level. A User that has expired
// already gets 401 too. If two calls are nested, the inner one, which runs last, decides who
// the user is.
//
// Authenticate works for any handler, not only for a hub. Where the handler is a hub's, or a
// ServeMux or another middleware of this package in front of it, what is refused is logged by
// its Logger, otherwise by slog.Default(), and an upgrade, an event stream, or a message to one
// counts as Rejected in the hub's [Stats].
func Authenticate(fn func(r *http.Request) (User, error)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return &middleware{next, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if isPreflight(r) && hubBehind(next, r) != nil { // which a browser sends without credentials
				next.ServeHTTP(w, r)
				return
			}
			tokenInURL := false
			r = r.WithContext(context.WithValue(r.Context(), tokenInURLKey{}, &tokenInURL))
			user, err := fn(r)
			if tokenInURL {
				r = withoutParameter(r, bearerParameter)
			}
			if err == nil && user.expired() {
				err = &Reject{Status: http.StatusUnauthorized} // the session has ended, as it was meant to
			}
			if err != nil {
				refuseInFront(w, r, err, http.StatusUnauthorized, hubBehind(next, r))
				return
			}
			next.ServeHTTP(w, r.WithContext(WithUser(r.Context(), user)))
		}}
	}
}

// refuseInFront refuses a request in front of the handler it is meant for, which is the
// hub's if h is not nil. Options.Refuse is for what the hub itself refuses.
func refuseInFront(w http.ResponseWriter, r *http.Request, err error, fallback int, h *Hub) {
	status, text := refusal(err, fallback)
	if h == nil {
		logRefusal(slog.Default(), r, err)
		http.Error(w, text, status)
		return
	}
	logRefusal(h.logger(), r, err)
	if websocket.IsWebSocketUpgrade(r) || asksForStream(r) || r.Method == http.MethodPost { // others are none of the hub's
		h.count.rejected.Add(1)
	}
	if isRefusedForATime(r, status) {
		closeRefusedStream(w, text)
		return
	}
	http.Error(w, text, status)
}

// WithUser returns a context with a user, which a hub takes like one that [Authenticate] has found.
// It is for applications that authenticate by themselves: their middleware passes the request
// on with this context.
func WithUser(ctx context.Context, u User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// UserFrom returns the user that [Authenticate] or [WithUser] put into a request's context, and
// whether one did. An anonymous user was put there too: look at its ID.
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
