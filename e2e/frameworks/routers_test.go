// Package frameworks mounts a hub where applications mount theirs, under other people's
// routers and middleware, and talks to it with other people's clients.
package frameworks

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/alexedwards/scs/v2"
	"github.com/gin-contrib/gzip"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v5"
	echomiddleware "github.com/labstack/echo/v5/middleware"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

type note struct{ Text string }

// newHub is a hub whose members of a room, the path value, hear what any of them sends.
func newHub(t *testing.T, options *grouphub.Options) http.Handler {
	hub := grouphub.New(options)
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("room:" + c.PathValue("room")) },
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, n note) error {
			return c.Hub().GroupSend(c.Context(), "room:"+c.PathValue("room"), "note", n)
		}),
		Events: grouphub.Events{"note": grouphub.Forward()},
	})
}

// An unwrapper hides everything of a ResponseWriter but what http.ResponseController finds.
type unwrapper struct{ inner http.ResponseWriter }

func (u unwrapper) Header() http.Header         { return u.inner.Header() }
func (u unwrapper) Write(p []byte) (int, error) { return u.inner.Write(p) }
func (u unwrapper) WriteHeader(status int)      { u.inner.WriteHeader(status) }
func (u unwrapper) Unwrap() http.ResponseWriter { return u.inner }

func unwrapping(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(unwrapper{w}, r)
	})
}

// mounts are how a hub is mounted under each router, with compression where the router, or
// its neighbourhood, has it. The paths take a POST, too, which is a message to an event stream.
var mounts = map[string]func(hub http.Handler) http.Handler{
	"net/http with otelhttp": func(hub http.Handler) http.Handler {
		router := http.NewServeMux()
		router.Handle("/ws/{room}", hub)
		return otelhttp.NewHandler(unwrapping(unwrapping(router)), "hub")
	},
	"chi": func(hub http.Handler) http.Handler {
		router := chi.NewRouter()
		router.Use(middleware.RequestID, middleware.Recoverer, middleware.Compress(5), unwrapping)
		router.Handle("/ws/{room}", hub)
		return router
	},
	"gorilla/mux": func(hub http.Handler) http.Handler {
		router := mux.NewRouter()
		router.Use(handlers.CompressHandler, unwrapping)
		// This router, like the next two, does not set the request's path values.
		router.HandleFunc("/ws/{room}", func(w http.ResponseWriter, r *http.Request) {
			r.SetPathValue("room", mux.Vars(r)["room"])
			hub.ServeHTTP(w, r)
		})
		return router
	},
	"echo": func(hub http.Handler) http.Handler {
		router := echo.New()
		router.Use(echomiddleware.Recover(), echomiddleware.RequestID(), echomiddleware.Gzip())
		router.Use(echo.WrapMiddleware(unwrapping))
		router.Any("/ws/:room", func(c *echo.Context) error {
			c.Request().SetPathValue("room", c.Param("room"))
			hub.ServeHTTP(c.Response(), c.Request())
			return nil
		})
		return router
	},
	"gin": func(hub http.Handler) http.Handler {
		router := gin.New()
		router.Use(gin.Recovery(), gzip.Gzip(gzip.DefaultCompression))
		hub = unwrapping(hub)
		router.Any("/ws/:room", func(c *gin.Context) {
			c.Request.SetPathValue("room", c.Param("room"))
			hub.ServeHTTP(c.Writer, c.Request)
		})
		return router
	},
}

func TestHubWorksUnderAnyRouterAndItsMiddleware(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	for name, mount := range mounts {
		t.Run(name, func(t *testing.T) {
			handler := mount(newHub(t, nil))
			ann, bob := hubtest.Dial(t, handler, "/ws/lobby"), hubtest.Dial(t, handler, "/ws/lobby")
			elsewhere := hubtest.Dial(t, handler, "/ws/cellar")
			for _, text := range []string{"one", "two"} {
				ann.Send(note{text})
				for _, c := range []*hubtest.Client{ann, bob} {
					if got := heard(t, c); got != text {
						t.Errorf("a member heard %q, want %q", got, text)
					}
				}
			}
			elsewhere.Send(note{"alone"})
			if got := heard(t, elsewhere); got != "alone" {
				t.Errorf("the member of another room heard %q", got)
			}

			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest("GET", "/ws/lobby", nil))
			if w.Code != http.StatusUpgradeRequired {
				t.Errorf("a plain request got %d, want %d", w.Code, http.StatusUpgradeRequired)
			}
		})
	}
}

func heard(t *testing.T, c *hubtest.Client) string {
	t.Helper()
	var n note
	if err := c.ExpectEvent("note").Decode(&n); err != nil {
		t.Fatal(err)
	}
	return n.Text
}

func TestSessionIsAliveInConnect(t *testing.T) {
	sessions := scs.New()
	hub := grouphub.New(nil)
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	router := http.NewServeMux()
	router.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		sessions.Put(r.Context(), "user", "ann")
	})
	router.HandleFunc("/visits", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(sessions.GetString(r.Context(), "visit")))
	})
	authenticate := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		return grouphub.User{ID: sessions.GetString(r.Context(), "user")}, nil
	})
	router.Handle("/ws", authenticate(hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			sessions.Put(c.Context(), "visit", "of "+c.User().ID) // saved when the request ends
			return c.Send([]byte("hello " + sessions.GetString(c.Context(), "user")))
		},
	})))
	served := make(chan struct{}, 10)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sessions.LoadAndSave(router).ServeHTTP(w, r)
		served <- struct{}{}
	})

	login := httptest.NewRecorder()
	handler.ServeHTTP(login, httptest.NewRequest("GET", "/login", nil))
	cookie := http.Header{"Cookie": {login.Result().Cookies()[0].String()}}

	<-served
	hubtest.Dial(t, handler, "/ws", hubtest.WithHeader(cookie)).Expect("hello ann")
	<-served // the request has ended, the connection has not

	visits := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/visits", nil)
	r.Header = cookie
	handler.ServeHTTP(visits, r)
	if got := visits.Body.String(); got != "of ann" {
		t.Errorf("what Connect put into the session is %q", got)
	}
}
