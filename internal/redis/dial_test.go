package redis

import (
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
)

func TestIsDialledAsTheClientSays(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	var dialled atomic.Int64
	newTestLayer(t, "redis://"+m.Addr(), Options{Client: func(o *rueidis.ClientOption) {
		o.DialFn = func(address string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
			dialled.Add(1)
			return dialer.Dial("tcp", address)
		}
	}})
	if dialled.Load() == 0 {
		t.Error("DialFn was not called")
	}
}
