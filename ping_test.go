package grouphub_test

import (
	"context"
	"crypto/tls"
	"io"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

// While a callback blocks, a third message keeps the reader from reading. A proxy on the way
// that hears nothing would give the connection up.
func TestPingsGoOnWhileACallbackBlocks(t *testing.T) {
	blocked, release := make(chan struct{}, 3), make(chan struct{})
	conn := dialRaw(t, newHub(t, &grouphub.Options{PingInterval: 10 * time.Millisecond, PongTimeout: time.Hour, Consumer: grouphub.Consumer{
		Receive: func(*grouphub.Conn, grouphub.Message) error {
			blocked <- struct{}{}
			<-release
			return nil
		},
	}}))
	defer close(release)
	for range 3 {
		if _, err := conn.Write(masked(0x81, "message")); err != nil {
			t.Fatal(err)
		}
	}
	<-blocked
	ping := make([]byte, 2)
	for range 10 {
		if _, err := io.ReadFull(conn, ping); err != nil || ping[0] != 0x89 || ping[1] != 0 {
			t.Fatalf("got %x, %v, want a ping", ping, err)
		}
	}
}

// What TLS sends is taken by the kernel, which is no sign of life of the peer.
func TestSilenceEndsAConnectionOverTLS(t *testing.T) {
	codes := make(chan int, 1)
	s := newServer(t, newHub(t, &grouphub.Options{PongTimeout: 50 * time.Millisecond, Consumer: grouphub.Consumer{
		Disconnect: func(_ context.Context, _ *grouphub.Conn, code int) { codes <- code },
	}}))
	s.StartTLS()
	// gorilla's client answers only while it is read
	s.dialWith(&websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, "/")
	select {
	case code := <-codes:
		if code != 1006 {
			t.Errorf("disconnected with %d", code)
		}
	case <-time.After(10 * time.Second):
		t.Error("a client that says nothing is still there")
	}
}
