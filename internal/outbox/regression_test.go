package outbox

import (
	"io"
	"net"
	"testing"
	"time"
)

// gated is a socket whose writes wait for a gate.
type gated struct {
	net.Conn
	gate    chan struct{}
	onWrite func()
}

func (g *gated) Write(p []byte) (int, error) {
	if g.onWrite != nil {
		g.onWrite()
	}
	<-g.gate
	return len(p), nil
}
func (g *gated) SetDeadline(time.Time) error      { return nil }
func (g *gated) SetReadDeadline(time.Time) error  { return nil }
func (g *gated) SetWriteDeadline(time.Time) error { return nil }
func (g *gated) Close() error                     { return nil }

var limits = Limits{Pending: 1 << 20, PongTimeout: time.Minute, WriteTimeout: time.Minute, CloseTimeout: time.Minute}

func TestAnEventOfAnyPermittedSizeIsDeliverable(t *testing.T) {
	g := &gated{gate: make(chan struct{})}
	o := New(g, limits, func(how Ending) { t.Errorf("ends as %d", how) }, func(n int) {})
	o.upgraded = true
	if err := o.Push(NewFrame(Text, []byte("x"), false)); err != nil {
		t.Fatal(err)
	}
	// Three bytes wait, of a megabyte that may.
	if err := o.Push(NewFrame(Text, make([]byte, 1<<20), false)); err != nil {
		t.Errorf("an event of 1 MiB behind one of 1 byte: %v", err)
	}
	close(g.gate)
	o.later.flushers.Wait()
}

func TestAFrameCutOffByKillIsCounted(t *testing.T) {
	lost := 0
	g := &gated{gate: make(chan struct{})}
	close(g.gate)
	o := New(g, limits, func(Ending) {}, func(n int) { lost += n })
	g.onWrite = o.Kill // between a chunk's write and the next look at dead
	if err := o.Push(NewFrame(Text, make([]byte, 64<<10), false)); err != nil {
		t.Fatal(err)
	}
	o.later.flushers.Wait()
	if lost != 1 {
		t.Errorf("16 of 64 KiB were written: %d frames counted as lost", lost)
	}
}

func TestAPeerThatTakesBytesSlowlyIsNotGivenUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	slow := limits
	slow.Pending = 16 << 20
	slow.WriteTimeout = time.Second
	o := New(conn, slow, func(how Ending) { t.Errorf("ends as %d", how) }, func(n int) {})
	o.upgraded = true
	frame := NewFrame(Text, make([]byte, 8<<20), false)
	if err := o.Push(frame); err != nil {
		t.Fatal(err)
	}
	// 400 KiB per second for four seconds: never a second without a byte.
	b, got := make([]byte, 20<<10), 0
	for range 80 {
		n, err := client.Read(b)
		if err != nil {
			t.Fatalf("after %d of %d: %v", got, len(frame), err)
		}
		got += n
		time.Sleep(50 * time.Millisecond)
	}
	go io.Copy(io.Discard, client)
	o.later.flushers.Wait()
}
