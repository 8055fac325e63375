package grouphub_test

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
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

func TestReceiveRateClosesWith1008(t *testing.T) {
	var received atomic.Int32
	hub := newHub(t, &grouphub.Options{ReceiveRate: 0.001, ReceiveBurst: 3, Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { received.Add(1); return c.Send(m.Data) },
	}})
	c := hubtest.Dial(t, hub, "/")
	for range 3 {
		c.Send("x")
		c.Expect("x")
	}
	c.Send("x")
	c.ExpectClose(1008)
	if n := received.Load(); n != 3 {
		t.Errorf("%d received", n)
	}
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
