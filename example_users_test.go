package grouphub_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/seed-29c60982/grouphub"
)

// A user is logged out on one device, and stays on the others.
func ExampleOnlySession() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	ctx := context.Background()
	mux := http.NewServeMux()
	mux.Handle("/ws", grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		return grouphub.User{ID: "ann", Session: r.Header.Get("Session")}, nil
	})(hub.Handler(grouphub.Consumer{Events: grouphub.Events{"*": grouphub.Forward()}})))
	phone := dial(mux, "/ws", http.Header{"Session": {"s1"}})
	defer phone.close()
	desk := dial(mux, "/ws", http.Header{"Session": {"s2"}})
	defer desk.close()

	hub.GroupClose(ctx, grouphub.UserGroup("ann"), 4401, "logged out", grouphub.OnlySession("s1"))

	phone.print()
	hub.GroupSend(ctx, grouphub.UserGroup("ann"), "invoice.paid", invoice{Number: 7})
	desk.print()
	// Output:
	// websocket: close 4401: logged out
	// {"type":"invoice.paid","group":"!user/ann","data":{"number":7}}
}

// A session that is prolonged takes its connections along, on every hub.
func ExampleHub_Renew() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	ctx := context.Background()
	mux := http.NewServeMux()
	mux.Handle("/ws", grouphub.Authenticate(func(*http.Request) (grouphub.User, error) {
		return grouphub.User{ID: "ann", Expires: time.Now().Add(time.Minute)}, nil
	})(hub))
	browser := dial(mux, "/ws", nil)
	defer browser.close()

	hub.Renew(ctx, "ann", time.Now().Add(time.Hour)) // the zero time means never

	for c := range hub.Conns() {
		fmt.Println(time.Until(c.User().Expires).Round(time.Minute))
	}
	// Output: 1h0m0s
}

// tokens stands for an application's own way to verify tokens.
type tokens map[string]grouphub.User

func (t tokens) Verify(_ context.Context, token string) (grouphub.User, error) {
	user, ok := t[token]
	if !ok {
		return grouphub.User{}, &grouphub.Reject{Status: http.StatusUnauthorized}
	}
	return user, nil
}

// A page's WebSocket can set no header, and sends its token as a subprotocol.
func ExampleBearer() {
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Send([]byte("hello " + c.User().ID)) },
	}})
	defer hub.Shutdown(context.Background())
	users := tokens{"secret": {ID: "ann"}}
	mux := http.NewServeMux()

	mux.Handle("/ws", grouphub.Authenticate(grouphub.Bearer(func(ctx context.Context, token string) (grouphub.User, error) {
		return users.Verify(ctx, token)
	}))(hub))

	browser := dial(mux, "/ws", http.Header{"Sec-WebSocket-Protocol": {"grouphub.bearer.secret"}})
	defer browser.close()
	browser.print()
	dial(mux, "/ws", nil).close()
	// Output:
	// hello ann
	// 401 Unauthorized
}

// A program that is no browser acts on a group's events.
func ExampleHub_Subscribe() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	prices := make(chan string)

	err := hub.Subscribe(ctx, "prices", func(e grouphub.Event) {
		switch e.Type {
		case "resync": // some may be lost: load what they were to tell
		default:
			prices <- e.Type + " " + string(e.Data)
		}
	})

	if err == nil {
		hub.GroupSend(ctx, "prices", "price.changed", 250)
		fmt.Println(<-prices)
	}
	// Output: price.changed 250
}
