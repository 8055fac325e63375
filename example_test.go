package grouphub_test

import (
	"cmp"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gorilla/websocket"
	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub"
)

// chatMessage is what the examples' clients send and get.
type chatMessage struct {
	Text string `json:"text"`
}

// invoice is what the examples' backend knows.
type invoice struct {
	Number int `json:"number"`
}

// A client is the browser of the examples: it prints what comes in.
type client struct {
	conn   *websocket.Conn
	server *httptest.Server
}

// dial connects a client to a handler, and returns when the handler has returned, so that
// Connect has run. If the client is refused, it prints the status.
func dial(h http.Handler, path string, header http.Header) *client {
	returned := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(returned)
		h.ServeHTTP(w, r)
	}))
	url := "ws" + strings.TrimPrefix(server.URL, "http") + path
	conn, answer, err := websocket.DefaultDialer.Dial(url, header)
	if answer == nil {
		log.Fatal(err)
	} else if err != nil {
		fmt.Println(answer.Status)
	}
	<-returned
	return &client{conn, server}
}

// send sends text.
func (c *client) send(text string) {
	if err := c.conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		log.Fatal(err)
	}
}

// print waits for a message, or the end, and prints it.
func (c *client) print() {
	_, data, err := c.conn.ReadMessage()
	fmt.Println(cmp.Or(string(data), fmt.Sprint(err)))
}

// printWithoutID waits for an event, and prints it without its ID, which differs from run
// to run. It returns the ID.
func (c *client) printWithoutID() string {
	var e grouphub.Event
	if err := c.conn.ReadJSON(&e); err != nil {
		log.Fatal(err)
	}
	id := e.ID
	e.ID = ""
	data, err := json.Marshal(e)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(data))
	return id
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
	}
	c.server.Close()
}

// The hub serves WebSockets on any mux, and any code can send to its groups.
func Example() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())

	mux := http.NewServeMux()
	mux.Handle("/ws/chat/{room}", hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			return c.Join("room:" + c.PathValue("room"))
		},
		Events: grouphub.Events{"chat.message": grouphub.Forward()},
	}))

	browser := dial(mux, "/ws/chat/lobby", nil)
	defer browser.close()

	err := hub.GroupSend(context.Background(), "room:lobby", "chat.message", chatMessage{Text: "deploy in 5 minutes"})
	if err != nil {
		log.Fatal(err)
	}
	browser.print()
	// Output: {"type":"chat.message","group":"room:lobby","data":{"text":"deploy in 5 minutes"}}
}

// An event can reach its members as it is, as something that is rendered once for all
// of them, or in a function that is called for each.
func ExampleEvents() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())

	app := hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("everyone") },
		Events: grouphub.Events{
			// {"type":"chat.message","group":"everyone","data":{"text":"hi"}}
			"chat.message": grouphub.Forward(),
			// The same HTML for everyone, which is made once.
			"chat.joined": grouphub.Render(func(e grouphub.Event) ([]byte, error) {
				var who string
				err := e.Decode(&who)
				return []byte("<li>" + who + " is here</li>"), err
			}),
			// Something else for each connection.
			"price.changed": grouphub.HandleAs(func(c *grouphub.Conn, cents int) error {
				if currency, ok := c.Get("currency"); ok {
					return c.SendJSON(fmt.Sprint(currency, " ", cents))
				}
				return nil
			}),
		},
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			c.Set("currency", string(m.Data))
			return c.Send([]byte("ok"))
		},
	})

	browser := dial(app, "/", nil)
	defer browser.close()
	browser.send("EUR")
	browser.print()

	ctx := context.Background()
	hub.GroupSend(ctx, "everyone", "chat.message", chatMessage{Text: "hi"})
	browser.print()
	hub.GroupSend(ctx, "everyone", "chat.joined", "Ann")
	browser.print()
	hub.GroupSend(ctx, "everyone", "price.changed", 250)
	browser.print()
	// Output:
	// ok
	// {"type":"chat.message","group":"everyone","data":{"text":"hi"}}
	// <li>Ann is here</li>
	// "EUR 250"
}

// session is what an application keeps behind its cookie.
type session struct {
	UserID  string
	Expires time.Time
}

// sessionStore stands for an application's own store of sessions.
type sessionStore map[string]session

func (s sessionStore) Find(key string) (session, error) {
	found, ok := s[key]
	if !ok {
		return session{}, errors.New("no such session")
	}
	return found, nil
}

func (s sessionStore) End(key string) { delete(s, key) }

// A connection belongs to the user whom the application's own session names, the
// backend reaches all of a user's connections, and ending the session closes them.
func ExampleAuthenticate() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	ctx := context.Background()
	sessions := sessionStore{"s1": {UserID: "ann", Expires: time.Now().Add(time.Hour)}}
	consumer := grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Send([]byte("hello " + c.User().ID)) },
		Events:  grouphub.Events{"*": grouphub.Forward()},
	}
	mux := http.NewServeMux()

	authenticate := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		cookie, err := r.Cookie("session")
		if err != nil {
			return grouphub.User{}, nil // an anonymous user, who may connect
		}
		s, err := sessions.Find(cookie.Value)
		if err != nil {
			return grouphub.User{}, err // the client gets 401, and not the error's text
		}
		return grouphub.User{ID: s.UserID, Expires: s.Expires}, nil
	})
	mux.Handle("/ws", authenticate(hub.Handler(consumer)))

	browser := dial(mux, "/ws", http.Header{"Cookie": {"session=s1"}})
	defer browser.close()
	browser.print()
	hub.GroupSend(ctx, grouphub.UserGroup("ann"), "invoice.paid", invoice{Number: 7})
	browser.print()

	// Logging out: first the session, then the connections.
	sessions.End("s1")
	hub.GroupClose(ctx, grouphub.UserGroup("ann"), 4401, "logged out")
	browser.print()

	dial(mux, "/ws", http.Header{"Cookie": {"session=s1"}}).close()
	// Output:
	// hello ann
	// {"type":"invoice.paid","group":"!user/ann","data":{"number":7}}
	// websocket: close 4401: logged out
	// 401 Unauthorized
}

// Pages of other origins may connect where AllowOrigins says so.
func ExampleAllowOrigins() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	mux := http.NewServeMux()

	mux.Handle("/ws", grouphub.AllowOrigins("https://example.com", "https://*.example.com")(hub))

	dial(mux, "/ws", http.Header{"Origin": {"https://app.example.com"}}).close()
	dial(mux, "/ws", http.Header{"Origin": {"https://evil.example"}}).close()
	// Output: 403 Forbidden
}

// A server that only this machine reaches names its hosts: a page whose name was made to lead
// here says another one.
func ExampleAllowHosts() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	mux := http.NewServeMux()

	mux.Handle("/ws", grouphub.AllowHosts("localhost", "127.0.0.1", "*.example.com")(hub))

	dial(mux, "/ws", http.Header{"Host": {"localhost:8080"}, "Origin": {"http://localhost:8080"}}).close()
	dial(mux, "/ws", http.Header{"Host": {"evil.example"}, "Origin": {"http://evil.example"}}).close()
	// Output: 403 Forbidden
}

// The browser client is part of the program.
func ExampleClientJS() {
	mux := http.NewServeMux()
	mux.Handle("GET /client.js", grouphub.ClientJS())

	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest("GET", "/client.js", nil))
	fmt.Println(answer.Code, answer.Header().Get("Content-Type"))
	// Output:
	// 200 text/javascript; charset=utf-8
}

// A server that stops closes its WebSockets with 1001 and waits for their callbacks.
func ExampleHub_Shutdown() {
	hub := grouphub.New(nil)
	server := httptest.NewServer(hub).Config

	stopped := make(chan error, 1)
	server.RegisterOnShutdown(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		stopped <- hub.Shutdown(ctx)
	})
	// … and when it is time to stop:
	if err := server.Shutdown(context.Background()); err != nil {
		log.Print(err)
	}
	fmt.Println(<-stopped)
	// Output: <nil>
}

// Groups with history show what was sent before, and what was missed; groups with
// presence show who is there.
func ExampleGroupPolicy() {
	layer := grouphub.NewMemoryLayer()
	defer layer.Close()
	ctx, mux := context.Background(), http.NewServeMux()

	hub := grouphub.New(&grouphub.Options{
		Layer: layer,
		Policy: func(group string) grouphub.GroupPolicy {
			if strings.HasPrefix(group, "room:") {
				return grouphub.GroupPolicy{History: 50, HistoryTTL: time.Hour, Presence: true}
			}
			return grouphub.GroupPolicy{} // neither history nor presence
		},
	})
	mux.Handle("/ws/chat/{room}", hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			return c.Join("room:"+c.PathValue("room"), grouphub.Last(50))
		},
		Events: grouphub.Events{"*": grouphub.Forward()},
	}))
	defer hub.Shutdown(ctx)

	hub.GroupSend(ctx, "room:lobby", "chat.message", chatMessage{Text: "nobody is here yet"})
	browser := dial(mux, "/ws/chat/lobby", nil)
	id := browser.printWithoutID()
	browser.close()
	for hub.Stats().Conns > 0 { // wait until the hub has noticed
		runtime.Gosched()
	}

	hub.GroupSend(ctx, "room:lobby", "chat.message", chatMessage{Text: "nobody is here now"})
	browser = dial(mux, "/ws/chat/lobby?resume="+url.QueryEscape("room:lobby@"+id), nil)
	defer browser.close()
	browser.printWithoutID()

	members, err := hub.Members(ctx, "room:lobby") // grouphub.ErrNoPresence if the policy has no Presence
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range members {
		fmt.Println(cmp.Or(m.UserID, "anonymous"), time.Since(m.Since) < time.Minute)
	}
	// Output:
	// {"type":"chat.message","group":"room:lobby","data":{"text":"nobody is here yet"}}
	// {"type":"chat.message","group":"room:lobby","data":{"text":"nobody is here now"}}
	// anonymous true
}

// With a key, an event can be sent again if it is unknown whether it went out. It is
// delivered once.
func ExampleOnce() {
	hub := grouphub.New(&grouphub.Options{
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("room:lobby") },
			Events:  grouphub.Events{"*": grouphub.Forward()},
		},
		Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 10} },
	})
	ctx := context.Background()
	defer hub.Shutdown(ctx)
	browser := dial(hub, "/", nil)
	defer browser.close()
	order := chatMessage{Text: "two coffees"}

	hub.GroupSend(ctx, "room:lobby", "chat.message", order, grouphub.Once("order-7")) // say its reply was lost
	err := hub.GroupSend(ctx, "room:lobby", "chat.message", order, grouphub.Once("order-7"))
	if errors.Is(err, grouphub.ErrUncertain) || errors.Is(err, grouphub.ErrUnavailable) {
		err = hub.GroupSend(ctx, "room:lobby", "chat.message", order, grouphub.Once("order-7"))
	}
	if err != nil {
		log.Fatal(err)
	}
	hub.GroupSend(ctx, "room:lobby", "chat.message", chatMessage{Text: "one tea"})
	browser.printWithoutID()
	browser.printWithoutID()
	// Output:
	// {"type":"chat.message","group":"room:lobby","data":{"text":"two coffees"}}
	// {"type":"chat.message","group":"room:lobby","data":{"text":"one tea"}}
}

// A worker takes the messages of a named channel until its context ends.
func ExampleHub_Work() {
	ctx, stop := context.WithCancel(context.Background())
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	if err := hub.Send(ctx, "thumbnails", "thumbnail.create", "cat.jpg"); err != nil {
		log.Fatal(err)
	}
	makeThumbnail := func(_ context.Context, path string) error {
		fmt.Println("a thumbnail of", path)
		stop()
		return nil
	}

	err := hub.Work(ctx, "thumbnails", grouphub.Tasks{
		"thumbnail.create": func(ctx context.Context, e grouphub.Event) error {
			var path string
			if err := e.Decode(&path); err != nil {
				return err
			}
			return makeThumbnail(ctx, path)
		},
	})

	fmt.Println(err)
	// Output:
	// a thumbnail of cat.jpg
	// context canceled
}

// A named channel is a queue that any process can append to and any can take from.
func ExampleHub_Receive() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	ctx := context.Background()

	if err := hub.Send(ctx, "thumbnails", "thumbnail.create", "cat.jpg"); errors.Is(err, grouphub.ErrQueueFull) {
		log.Fatal("the workers are too slow")
	} else if err != nil {
		log.Fatal(err)
	}

	event, err := hub.Receive(ctx, "thumbnails") // waits for one
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(event.Type, string(event.Data))
	// Output: thumbnail.create "cat.jpg"
}

// Hubs in other processes are reached by giving each a layer on the same Redis.
func ExampleNewRedisLayer() {
	redis := miniredis.NewMiniRedis() // stands in for a server
	if err := redis.Start(); err != nil {
		log.Fatal(err)
	}
	defer redis.Close()
	os.Setenv("REDIS_URL", "redis://"+redis.Addr())
	defer os.Unsetenv("REDIS_URL")

	layer, err := grouphub.NewRedisLayer(os.Getenv("REDIS_URL"), nil)
	if err != nil {
		log.Fatal(err) // the URL is wrong, or no server answers
	}
	defer layer.Close() // the hub does not close it: do so after hub.Shutdown
	hub := grouphub.New(&grouphub.Options{Layer: layer})
	defer hub.Shutdown(context.Background())

	fmt.Println(hub.Ping(context.Background()))
	// Output: <nil>
}

// What a Redis URL cannot say is in RedisOptions.
func ExampleRedisOptions() {
	certified := httptest.NewTLSServer(nil) // for its certificate
	defer certified.Close()
	ourCA := certified.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	redis := miniredis.NewMiniRedis()
	if err := redis.StartTLS(&tls.Config{Certificates: certified.TLS.Certificates}); err != nil {
		log.Fatal(err)
	}
	defer redis.Close()
	redisURL, newKey, oldKey := "rediss://"+redis.Addr(), "from openssl rand", "from a year ago"

	layer, err := grouphub.NewRedisLayer(redisURL, &grouphub.RedisOptions{
		Prefix:         "shop",                   // for a Redis that several applications share
		EncryptionKeys: []string{newKey, oldKey}, // the first encrypts, all decrypt
		Client: func(o *rueidis.ClientOption) { // may change what the URL stands for
			o.TLSConfig.RootCAs = ourCA
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	hub := grouphub.New(&grouphub.Options{Layer: layer})
	defer hub.Shutdown(context.Background())

	fmt.Println(hub.Ping(context.Background()))
	// Output: <nil>
}

// This is what people who come from Django Channels look for. docs/from-channels.md has a table of it.
func Example_channels() {
	ctx := context.Background()
	layer := grouphub.NewMemoryLayer()
	defer layer.Close()
	hub := grouphub.New(&grouphub.Options{Layer: layer})
	defer hub.Shutdown(ctx)
	ended := make(chan int, 1)

	consumer := grouphub.Consumer{
		Accept: func(r *http.Request) error {
			if r.PathValue("room") == "closed" {
				return &grouphub.Reject{Status: 403, Reason: "this room is closed"}
			}
			return nil
		},
		Connect: func(c *grouphub.Conn) error {
			c.Set("greeting", "hello")
			if c.User().ID == "banned" {
				return &grouphub.CloseError{Code: 4003, Reason: "go away"}
			}
			return c.Join("room:" + c.PathValue("room"))
		},
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, m chatMessage) error {
			if m.Text == "bye" {
				return c.Close(4000, "bye")
			}
			if greeting, ok := c.Get("greeting"); ok {
				m.Text = fmt.Sprint(greeting, " ", m.Text, " ", c.Request().URL.Query().Get("from"))
			}
			return c.SendJSON(m)
		}),
		Disconnect: func(ctx context.Context, c *grouphub.Conn, code int) {
			ended <- code
		},
		Events: grouphub.Events{
			"chat.message": grouphub.Forward(),
			"chat.private": grouphub.HandleAs(func(c *grouphub.Conn, m chatMessage) error {
				return c.Send([]byte("for " + m.Text + " alone"))
			}),
			"chat.whoami": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
				if err := c.Leave("room:lobby"); err != nil {
					return err
				}
				if err := hub.GroupDiscard(c.Context(), "room:lobby", c.Channel()); err != nil {
					return err
				}
				if err := hub.GroupAdd(c.Context(), "room:lobby", c.Channel()); err != nil {
					return err
				}
				return hub.Send(c.Context(), c.Channel(), "chat.private", chatMessage{Text: "you"})
			}),
		},
		Subprotocols: []string{"chat"},
	}
	mux := http.NewServeMux()
	mux.Handle("/ws/chat/{room}", hub.Handler(consumer))

	dial(mux, "/ws/chat/closed", nil).close()
	browser := dial(mux, "/ws/chat/lobby?from=me", nil)
	defer browser.close()
	browser.send(`{"text":"world"}`)
	browser.print()
	hub.GroupSend(ctx, "room:lobby", "chat.message", chatMessage{Text: "hi"})
	browser.print()
	hub.GroupSend(ctx, "room:lobby", "chat.whoami", nil)
	browser.print()
	browser.send(`{"text":"bye"}`)
	browser.print()
	fmt.Println(<-ended)
	// Output:
	// 403 Forbidden
	// {"text":"hello world me"}
	// {"type":"chat.message","group":"room:lobby","data":{"text":"hi"}}
	// for you alone
	// websocket: close 4000: bye
	// 4000
}

// outbox stands for a table of a database, and transaction for a transaction on it.
type outbox struct{}

func (outbox) In(tx *transaction) *transaction { return tx }

// An event is written down in a transaction, from which a relay takes it once that is
// committed.
func ExampleVia() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	ctx, order := context.Background(), map[string]int{"id": 7}
	var outbox outbox
	tx := new(transaction)

	err := hub.GroupSend(ctx, "order:7", "order.paid", order, grouphub.Via(outbox.In(tx)))

	fmt.Println(len(tx.kept), err)
	// Output: 1 <nil>
}

// A program that is not written in Go posts what it has to say.
func ExamplePublishHandler() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	mux, secret := http.NewServeMux(), "correct horse battery staple"

	mux.Handle("/publish", grouphub.PublishHandler(hub, func(r *http.Request) error {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+secret)) == 0 {
			return errors.New("the secret is wrong")
		}
		return nil
	}))

	for _, authorization := range []string{"Bearer " + secret, "Bearer guess"} {
		r := httptest.NewRequest("POST", "/publish", strings.NewReader(`{"user":"ann","type":"thumbnail.done","data":"cat.jpg"}`))
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Println(strings.TrimSpace(fmt.Sprint(w.Code, w.Body)))
	}
	// Output:
	// 204
	// 401 {"error":"Unauthorized","safe":true}
}
