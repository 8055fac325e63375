package grouphub_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestTextIsText(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, v struct{ N int }) error { return c.SendJSON(v.N) }),
	})
	c := hubtest.Dial(t, hub, "/")
	c.Send(`{"N":7}`)
	c.Expect("7")
	c.Send("\xff")
	c.ExpectClose(1007)
	c = hubtest.Dial(t, hub, "/")
	c.Send(`{"N":"seven"}`)
	c.ExpectClose(1007)
	c = hubtest.Dial(t, hubOf(t, grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Send([]byte("\xff")) }}), "/")
	c.ExpectClose(1011) // the error is the sender's
}

func TestFastSendersAreSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		received := make(chan time.Duration, 100)
		start := time.Now()
		hub := grouphub.New(&grouphub.Options{ReceiveRate: 2, ReceiveBurst: 3, Consumer: grouphub.Consumer{
			Receive: func(c *grouphub.Conn, m grouphub.Message) error {
				received <- time.Since(start)
				return c.Send(m.Data)
			},
		}})
		c := hubtest.Dial(t, hub, "/")
		for i := range 13 {
			c.Send(i)
		}
		for i := range 13 {
			c.Expect(i) // all of them, in order
			if at, want := <-received, time.Duration(max(0, i-2))*time.Second/2; at != want {
				t.Errorf("message %d is received after %v, want %v", i, at, want)
			}
		}
		if err := hub.Shutdown(background); err != nil {
			t.Error(err)
		}
	})
}

// Nothing is worked on before there is a token for it: neither pings, nor parts of messages.
func TestControlFramesAndFragmentsTakeFromTheReceiveRate(t *testing.T) {
	for name, flood := range map[string][]byte{
		"pings":           masked(0x89, ""),
		"pongs":           masked(0x8a, ""),
		"empty fragments": masked(0x00, ""),
	} {
		synctest.Test(t, func(t *testing.T) {
			hub := grouphub.New(&grouphub.Options{ReceiveRate: 10, ReceiveBurst: 10, Consumer: grouphub.Consumer{
				Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
			}})
			conn := dialPipe(t, hub, "/")
			start := time.Now()
			go func() {
				raw := conn.NetConn()
				raw.Write(masked(0x01, "begun")) // a message that goes on until the last frame
				for range 100 {
					raw.Write(flood)
				}
				raw.Write(masked(0x80, ""))
			}()
			wantNext(t, conn, "begun")
			if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
				t.Errorf("100 %s took %v, want 9.2 s", name, took)
			}
			conn.Close()
			if err := hub.Shutdown(background); err != nil {
				t.Error(err)
			}
		})
	}
}

// A client that waits for its turn is not silent, and its leaving is noticed.
func TestAClientThatIsSlowedIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := make(chan time.Duration, 1)
		start := time.Now()
		hub := grouphub.New(&grouphub.Options{ReceiveRate: 0.001, ReceiveBurst: 1, Consumer: grouphub.Consumer{
			Disconnect: func(context.Context, *grouphub.Conn, int) { left <- time.Since(start) },
		}})
		c := hubtest.Dial(t, hub, "/")
		c.Send("one")
		c.Send("two") // which is read after a quarter of an hour
		time.Sleep(10 * time.Minute)
		if n := hub.Stats().Conns; n != 1 {
			t.Errorf("%d connections after ten minutes", n)
		}
		c.Close()
		if at := <-left; at > 10*time.Minute+2*time.Second {
			t.Errorf("its leaving was noticed after %v", at)
		}
		if err := hub.Shutdown(background); err != nil {
			t.Error(err)
		}
	})
}

func TestMaxMessageSizeHoldsForTheInflatedSize(t *testing.T) {
	for _, compression := range []bool{false, true} {
		hub := newHub(t, &grouphub.Options{MaxMessageSize: 1000, Compression: compression, Consumer: grouphub.Consumer{
			Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(fmt.Append(nil, len(m.Data))) },
		}})
		s := serve(t, hub)
		c := s.dialWith(&websocket.Dialer{EnableCompression: true}, "/")
		c.WriteMessage(websocket.TextMessage, make([]byte, 1000))
		wantNext(t, c, "1000")
		c.WriteMessage(websocket.TextMessage, make([]byte, 1001))
		c.WriteMessage(websocket.TextMessage, make([]byte, 10<<20)) // 10 KiB on the wire
		wantClose(t, c, 1009)
	}
}

func TestMessageThatDoesNotInflateClosesItsSender(t *testing.T) {
	for _, payload := range []string{"\xff\xff\xff\xff", "\x00\xff\x00\x00\xff"} {
		hub := newHub(t, &grouphub.Options{Compression: true, Logger: slog.New(slog.DiscardHandler), Consumer: grouphub.Consumer{
			Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
		}})
		c := serve(t, hub).dialWith(&websocket.Dialer{EnableCompression: true}, "/")
		frame := append([]byte{0x80 | 0x40 | 1, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
		c.NetConn().Write(frame)
		c.WriteMessage(websocket.TextMessage, []byte("next"))
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, data, err := c.ReadMessage()
		if !websocket.IsCloseError(err, 1007) {
			t.Errorf("%q: got %q, %v: the message was swallowed", payload, data, err)
		}
	}
}
