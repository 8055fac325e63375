// Package proxies puts real proxies, with their compression on, between a hub and the clients
// of its event streams.
package proxies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/eventsource"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// A proxy is a program and its configuration, in which FOLDER, LISTEN and SERVER stand for what
// is known only when it runs.
type proxy struct {
	program string
	args    []string // the configuration's path follows
	config  string
}

// nginx's workers would run as another user, so it does without.
const nginxConfig = `
daemon off;
master_process off;
pid FOLDER/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path FOLDER/body;
	proxy_temp_path FOLDER/proxy;
	fastcgi_temp_path FOLDER/fastcgi;
	uwsgi_temp_path FOLDER/uwsgi;
	scgi_temp_path FOLDER/scgi;
	gzip on;
	gzip_proxied any;
	gzip_types text/event-stream;
	gzip_min_length 0;
	SITE
}
`

// site is the least that nginx needs.
const site = "server { listen LISTEN; location / { proxy_pass http://SERVER; VERSION } }"

// nginx returns a proxy that serves a site.
func nginx(site string) proxy {
	return proxy{"nginx", []string{"-e", "stderr", "-c"}, strings.ReplaceAll(nginxConfig, "SITE", site)}
}

// documented returns the configuration that docs/deployment.md shows in a language, with the
// test's address in place of the one that it listens at.
func documented(language, listen, here string) string {
	guide, err := os.ReadFile("../../docs/deployment.md")
	if err != nil {
		panic(err)
	}
	block := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(guide)
	if block == nil || !strings.Contains(string(block[1]), listen) {
		panic("docs/deployment.md has no " + language + " with " + listen)
	}
	return strings.NewReplacer(listen, here, "127.0.0.1:8080", "SERVER").Replace(string(block[1]))
}

var proxies = map[string]proxy{
	"nginx by default": nginx(strings.ReplaceAll(site, "VERSION", "")),
	"nginx by HTTP 1.1": nginx(strings.ReplaceAll(site, "VERSION",
		`proxy_http_version 1.1; proxy_set_header Connection "";`)),
	"nginx as documented": nginx(documented("nginx", "listen 80;", "listen LISTEN;")),
	"haproxy as documented": {"haproxy", []string{"-db", "-f"},
		"global\n\tmaxconn 100\n" + documented("haproxy", "bind :80", "bind LISTEN")},
	"caddy as documented": {"caddy", []string{"run", "--adapter", "caddyfile", "--config"},
		"{\n\tadmin off\n\tauto_https off\n}\n" + documented("caddy", "example.com {", "http://LISTEN {")},
	"haproxy": {"haproxy", []string{"-db", "-f"}, `
global
	maxconn 100
defaults
	mode http
	timeout connect 5s
	timeout client 30s
	timeout server 30s
	compression algo gzip
	compression type text/event-stream application/json
frontend front
	bind LISTEN
	default_backend back
backend back
	server one SERVER
`},
	"caddy": {"caddy", []string{"run", "--adapter", "caddyfile", "--config"}, `
{
	admin off
	auto_https off
}
http://LISTEN {
	encode gzip
	reverse_proxy SERVER
}
`},
}

// start runs a proxy in front of a server until the end of the test, and returns its address.
func (p proxy) start(t *testing.T, server string) string {
	t.Helper()
	if _, err := exec.LookPath(p.program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", p.program)
		}
		t.Skipf("%s is not installed", p.program)
	}
	for range 5 { // somebody else may get the port first
		address := freeAddress(t)
		folder := t.TempDir()
		file := filepath.Join(folder, "config")
		config := strings.NewReplacer("FOLDER", folder, "LISTEN", address, "SERVER", server).Replace(p.config)
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		command := exec.Command(p.program, append(p.args, file)...)
		command.Env = append(os.Environ(), "HOME="+folder) // where caddy keeps its files
		output := new(strings.Builder)
		command.Stdout, command.Stderr = output, output
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- command.Wait() }()
		if listens(address, ended) {
			t.Cleanup(func() {
				command.Process.Kill()
				<-ended
				if t.Failed() {
					t.Logf("%s said: %s", p.program, output)
				}
			})
			return address
		}
		command.Process.Kill()
		t.Logf("%s does not start: %s", p.program, output)
	}
	t.Fatalf("%s does not start", p.program)
	return ""
}

// listens reports whether something takes connections at an address before the process ends.
func listens(address string, ended chan error) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return true
		}
		select {
		case err := <-ended:
			ended <- err
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	<-ended
	return false
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestEventStreamWorksBehindAProxy(t *testing.T) {
	for name, p := range proxies {
		t.Run(name, func(t *testing.T) {
			left := make(chan int, 10)
			hub := grouphub.New(&grouphub.Options{
				// An event stream has a comment as often: at the latest one of these finds out
				// that the client behind the proxy has gone.
				PingInterval: 2 * time.Second,
				Policy:       func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 100} },
				Consumer: grouphub.Consumer{
					Connect: func(c *grouphub.Conn) error { return c.Join("news") },
					Receive: func(c *grouphub.Conn, m grouphub.Message) error {
						return c.Hub().GroupSend(c.Context(), "news", "n", json.RawMessage(m.Data))
					},
					Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { left <- code },
					Events:     grouphub.Events{"n": grouphub.Forward()},
				},
			})
			server := httptest.NewServer(hub)
			t.Cleanup(func() {
				if err := hub.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
				server.Close()
			})
			url := "http://" + p.start(t, server.Listener.Addr().String()) + "/"
			source := new(eventsource.Source)
			t.Cleanup(func() { source.Cut() })
			connect(t, source, url)

			// Each event is awaited before the next is sent, so that none may stay in the proxy,
			// whether they come in a row or with pauses that a buffer would be emptied in.
			begin, sent := time.Now(), 0
			for range 10 {
				sent++
				if err := hub.GroupSend(t.Context(), "news", "n", sent); err != nil {
					t.Fatal(err)
				}
				expect(t, source, sent)
			}
			took := time.Since(begin)
			t.Logf("10 events one by one in %v", took)
			if took > 5*time.Second {
				t.Errorf("10 events took %v: the proxy keeps each for a while", took)
			}

			sent++
			if err := source.Post(fmt.Sprint(sent)); err != nil {
				t.Fatal(err)
			}
			expect(t, source, sent)

			source.Cut()
			begin = time.Now()
			select {
			case <-left:
				t.Logf("a client that left was noticed in %v", time.Since(begin))
			case <-time.After(patience):
				t.Fatalf("%v later nobody has noticed that a client left", patience)
			}
			for range 3 {
				sent++
				if err := hub.GroupSend(t.Context(), "news", "n", sent); err != nil {
					t.Fatal(err)
				}
			}
			connect(t, source, url)
			for n := sent - 2; n <= sent; n++ {
				expect(t, source, n)
			}

			if err := hub.GroupClose(t.Context(), "news", 4401, "enough"); err != nil {
				t.Fatal(err)
			}
			for {
				b, err := source.Next()
				if err != nil {
					t.Fatalf("no close came, but %v", err)
				}
				if b.Name == "grouphub.close" {
					if want := `{"code":4401,"reason":"enough"}`; b.Data != want {
						t.Errorf("the close is %s, want %s", b.Data, want)
					}
					break
				}
			}
			if b, err := source.Next(); err == nil {
				t.Errorf("after the close came %+v", b)
			} else if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("the stream did not end after its close")
			}
		})
	}
}

// A page of the site that the proxy serves connects, so the Host has to get through, too.
func TestWebSocketWorksBehindAProxyThatIsConfiguredAsDocumented(t *testing.T) {
	for name, p := range proxies {
		if !strings.HasSuffix(name, "as documented") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
				Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
			}})
			server := httptest.NewServer(hub)
			t.Cleanup(func() {
				if err := hub.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
				server.Close()
			})
			address := p.start(t, server.Listener.Addr().String())
			conn, _, err := websocket.DefaultDialer.Dial("ws://"+address+"/", http.Header{"Origin": {"http://" + address}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, data, err := conn.ReadMessage(); err != nil || string(data) != "hello" {
				t.Errorf("got %q, %v", data, err)
			}
		})
	}
}

// connect returns when the stream is open, and its token known.
func connect(t *testing.T, s *eventsource.Source, url string) {
	t.Helper()
	if err := s.Connect(url); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Next(); err != nil || b.Name != "grouphub.open" {
		t.Fatalf("the first block is %+v, %v", b, err)
	}
}

// expect reads an event, which must have this number.
func expect(t *testing.T, s *eventsource.Source, number int) {
	t.Helper()
	data, err := s.NextEvent()
	if err != nil {
		t.Fatal(err)
	}
	var e grouphub.Event
	if err := json.Unmarshal([]byte(data), &e); err != nil || string(e.Data) != fmt.Sprint(number) {
		t.Fatalf("got %s, %v; want number %d", data, err, number)
	}
}
