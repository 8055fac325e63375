package outbox_test

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

func TestDeflatedIsWhatTheHandshakeNegotiated(t *testing.T) {
	for _, deflated := range []bool{false, true} {
		conn, peer := net.Pipe()
		o := outbox.New(conn, generous, nil, nil)
		answer := response
		if deflated {
			answer = strings.Replace(response, "\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n", 1)
		}
		go io.Copy(io.Discard, peer)
		if n, err := o.Write([]byte(answer)); n != len(answer) || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		if got := o.Deflated(); got != deflated {
			t.Errorf("Deflated is %v after %q", got, answer)
		}
		conn.Close()
	}
}
