package redis

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// A subscriber is a connection that subscribes and does nothing else. It is not one of
// rueidis: that sends a PING behind each UNSUBSCRIBE, and ends the process with a panic
// where a server which is busy, loading or out of disk answers both with an error. Here
// whatever comes is either what the oldest command waits for, or a message, or the server's
// own doing.
//
// One goroutine sends commands, and the reader's calls handle what comes.
type subscriber struct {
	// Static after construction.
	option *rueidis.ClientOption
	conn   net.Conn
	reader *bufio.Reader
	resp3  bool // commands other than subscriptions are allowed while there are some
	role   string

	refreshAt time.Time // when the credentials want to be refreshed, or zero. The sender's.

	mu      sync.Mutex
	waiting []*request // sent, and not answered in full, oldest first
}

// A request is a command that was sent.
type request struct {
	name     string   // of the command
	channels []string // for each of which a confirmation is due; none: one reply is
	sent     time.Time
	done     func(answer reply) // called once by the reader, with an error or the last answer
}

// Names of commands, and of the confirmations that answer them, in lower case.
const (
	subscribeName    = "subscribe"
	unsubscribeName  = "unsubscribe"
	ssubscribeName   = "ssubscribe"
	sunsubscribeName = "sunsubscribe"
)

// newSubscriber connects to a node and greets it.
func (l *Layer) newSubscriber(ctx context.Context, address string) (*subscriber, error) {
	ctx, cancel := context.WithTimeout(ctx, l.callTimeout)
	defer cancel()
	conn, err := l.connections.dialContext(ctx, address, &l.option.Dialer, l.option.TLSConfig)
	if err != nil {
		return nil, err
	}
	c := &subscriber{option: &l.option, conn: conn, reader: bufio.NewReaderSize(conn, 256<<10)}
	hangUp := context.AfterFunc(ctx, func() { conn.Close() })
	err = c.greet()
	if !hangUp() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// greet authenticates, and learns what the server is. One that does not know HELLO, or is
// not to be asked, speaks the protocol's second version.
func (c *subscriber) greet() error {
	user, password, err := c.credentials()
	if err != nil {
		return err
	}
	if !c.option.AlwaysRESP2 {
		hello := []string{"HELLO", "3"}
		if user != "" || password != "" {
			hello = append(hello, "AUTH", user, password)
		}
		if name := c.option.ClientName; name != "" {
			hello = append(hello, "SETNAME", name)
		}
		answer, err := c.ask(hello...)
		if err != nil {
			return err
		}
		if !answer.isError() {
			c.resp3, c.role = true, answer.field("role")
			return nil
		}
		if text := strings.ToLower(string(answer.text)); !strings.Contains(text, "unknown command") && !strings.HasPrefix(text, "noproto") {
			return errors.New(string(answer.text))
		}
	}
	var commands [][]string
	switch {
	case user != "" && user != "default":
		commands = append(commands, []string{"AUTH", user, password})
	case password != "":
		commands = append(commands, []string{"AUTH", password})
	}
	if name := c.option.ClientName; name != "" {
		commands = append(commands, []string{"CLIENT", "SETNAME", name})
	}
	for _, command := range commands {
		if answer, err := c.ask(command...); err != nil {
			return err
		} else if answer.isError() {
			return errors.New(string(answer.text))
		}
	}
	return nil
}

// credentials returns the user and the password, which may be good for a while only.
func (c *subscriber) credentials() (user, password string, err error) {
	user, password = c.option.Username, c.option.Password
	if fn := c.option.AuthCredentialsFn; fn != nil {
		credentials, err := fn(rueidis.AuthCredentialsContext{Address: c.conn.RemoteAddr()})
		if err != nil {
			return "", "", fmt.Errorf("credentials: %w", err)
		}
		user, password, c.refreshAt = credentials.Username, credentials.Password, credentials.RefreshAfter
	}
	if user == "" && password != "" {
		user = "default"
	}
	return user, password, nil
}

// ask sends a command and reads the answer, before there is a reader.
func (c *subscriber) ask(words ...string) (reply, error) {
	if err := c.write(appendCommand(nil, words...)); err != nil {
		return reply{}, err
	}
	return readReply(c.reader)
}

func (c *subscriber) write(bytes []byte) error {
	c.conn.SetWriteDeadline(time.Now().Add(c.option.ConnWriteTimeout))
	_, err := c.conn.Write(bytes)
	return err
}

// send sends commands, whose answers go to their done.
func (c *subscriber) send(requests ...*request) error {
	var bytes []byte
	now := time.Now()
	for _, r := range requests {
		r.sent = now
		bytes = appendCommand(bytes, append([]string{strings.ToUpper(r.name)}, r.channels...)...)
	}
	c.mu.Lock()
	c.waiting = append(c.waiting, requests...)
	c.mu.Unlock()
	return c.write(bytes)
}

// refresh authenticates anew if the credentials want it. Where that is not allowed beside
// subscriptions, the server ends the connection when they are over.
func (c *subscriber) refresh(refused func(error)) error {
	if c.refreshAt.IsZero() || !c.resp3 || time.Now().Before(c.refreshAt) {
		return nil
	}
	user, password, err := c.credentials()
	if err != nil {
		return err
	}
	r := &request{name: "auth", sent: time.Now(), done: func(answer reply) {
		if answer.isError() {
			refused(errors.New(string(answer.text)))
		}
	}}
	c.mu.Lock()
	c.waiting = append(c.waiting, r)
	c.mu.Unlock()
	return c.write(appendCommand(nil, "AUTH", user, password))
}

// overdue reports whether the server owes an answer for longer than a call may take.
func (c *subscriber) overdue(callTimeout time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting) > 0 && time.Since(c.waiting[0].sent) > callTimeout
}

// read hands over what comes until the connection ends. givenAway gets the channels that
// the server has unsubscribed from without being asked.
func (c *subscriber) read(message func(channel string, payload []byte), confirmed, givenAway func(channel string)) error {
	for {
		answer, err := readReply(c.reader)
		if err != nil {
			return err
		}
		isPush := answer.kind == '>' || answer.kind == '*' && !c.resp3
		if !isPush || len(answer.items) < 3 {
			if err := c.answered(answer); err != nil {
				return err
			}
			continue
		}
		channel := string(answer.items[1].text)
		switch kind := string(answer.items[0].text); kind {
		case "message", "smessage":
			message(channel, answer.items[2].text)
		case subscribeName, ssubscribeName, unsubscribeName, sunsubscribeName:
			wasDue := c.confirmedOldest(kind, channel, answer, confirmed)
			if !wasDue && kind == sunsubscribeName {
				givenAway(channel)
			}
		}
	}
}

// answered gives the oldest request an answer that is no confirmation.
func (c *subscriber) answered(answer reply) error {
	c.mu.Lock()
	var oldest *request
	if len(c.waiting) > 0 {
		oldest = c.waiting[0]
		c.waiting = slices.Delete(c.waiting, 0, 1)
	}
	c.mu.Unlock()
	switch {
	case oldest == nil && answer.isError():
		return fmt.Errorf("unasked: %s", bytes.TrimSpace(answer.text))
	case oldest == nil:
		return nil
	case len(oldest.channels) > 0 && !answer.isError():
		return fmt.Errorf("%w: a %q instead of a confirmation", errProtocol, answer.kind)
	}
	oldest.done(answer)
	return nil
}

// confirmedOldest reports whether the oldest request waited for this confirmation. The
// server confirms the channels of a command in their order.
func (c *subscriber) confirmedOldest(kind, channel string, answer reply, confirmed func(channel string)) (wasDue bool) {
	c.mu.Lock()
	if len(c.waiting) == 0 || c.waiting[0].name != kind || c.waiting[0].channels[0] != channel {
		c.mu.Unlock()
		return false
	}
	oldest := c.waiting[0]
	oldest.channels = oldest.channels[1:]
	last := len(oldest.channels) == 0
	if last {
		c.waiting = slices.Delete(c.waiting, 0, 1)
	}
	c.mu.Unlock()
	if kind == subscribeName || kind == ssubscribeName {
		confirmed(channel)
	}
	if last {
		oldest.done(answer)
	}
	return true
}
