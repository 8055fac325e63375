package grouphub_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestSendBinaryAndText(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error {
			if m.Binary {
				return c.SendBinary(m.Data)
			}
			return c.Send(m.Data)
		},
	})
	c := hubtest.Dial(t, hub, "/")
	for _, size := range []int{0, 1, 125, 126, 65535, 65536} {
		data := strings.Repeat("x", size)
		c.Send(data)
		c.Expect(data)
		c.Send([]byte(data))
		if m := c.Next(); !m.Binary || string(m.Data) != data {
			t.Errorf("%d bytes: got %d, binary %v", size, len(m.Data), m.Binary)
		}
	}
}

func TestSendDoesNotKeepTheSlice(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		data := []byte("one")
		defer copy(data, "XXX")
		return c.Send(data)
	}})
	hubtest.Dial(t, hub, "/").Expect("one")
}

func TestCloseRefusesCodesThatAFrameCannotCarry(t *testing.T) {
	errs := make(chan error, 10)
	hub := hubOf(t, grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 2999, 5000} {
			errs <- c.Close(code, "")
		}
		errs <- c.Close(1000, strings.Repeat("x", 124))
		errs <- c.Close(1000, "\xff")
		return c.Send([]byte("still open"))
	}})
	c := hubtest.Dial(t, hub, "/")
	for range 10 {
		if err := <-errs; err == nil {
			t.Error("a bad close was accepted")
		}
	}
	c.Expect("still open")
}

func TestCloseSendsWhatWaitsFirst(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Connect: func(c *grouphub.Conn) error {
		for i := range 100 {
			if err := c.Send(fmt.Append(nil, i, strings.Repeat("x", 10_000))); err != nil {
				return err
			}
		}
		if err := c.Close(4000, "done"); err != nil {
			return err
		}
		if err := c.Close(4001, "again"); !errors.Is(err, grouphub.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		if err := c.Send([]byte("late")); !errors.Is(err, grouphub.ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
		return nil
	}})
	c := serve(t, hub).dial("/")
	for i := range 100 {
		if got := next(t, c); !strings.HasPrefix(got, fmt.Sprint(i)+"x") {
			t.Fatalf("message %d is %.10q", i, got)
		}
	}
	wantClose(t, c, 4000)
}
