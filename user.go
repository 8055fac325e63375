package grouphub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/sequence"
)

// A connUser is whose a connection is, and until when.
type connUser struct {
	current atomic.Pointer[knownUser] // &nobody if there is none; changed with mu held

	mu     sync.Mutex    // may be taken while the Conn's is held; no other is taken while it is held
	expiry *time.Timer   // nil if there is nothing to wait for
	over   bool          // the connection has ended, and needs no timer
	login  chan struct{} // closed when the SetUser that logs in has ended; nil if none is under way
}

// A knownUser is what a hub knows of a connection's user. It is not changed.
type knownUser struct {
	User
	info  json.RawMessage // the JSON of Info, nil if there is none
	since time.Duration   // when the application last said who it is, as an uptime
}

// nobody is the user of a connection that was not authenticated.
var nobody knownUser

// expired reports whether the user's session has ended.
func (u *User) expired() bool { return !u.Expires.IsZero() && !u.Expires.After(time.Now()) }

// User returns what [Authenticate] found, or [Conn.SetUser] has set since, with the Expires
// of the last [Hub.Renew]. It is the zero User if there is none.
func (c *Conn) User() User { return c.user.current.Load().User }

// SetUser says who the connection's user is from now on. With the ID that the user has, it
// changes the rest: a later Expires prolongs the session, and [Hub.Members] has the new Info, which
// [GroupPolicy].Announce does not tell those who are there already. On an
// anonymous connection it logs in: when it returns nil, the connection is in the user's
// group. Another ID is an error, and so is an empty one: a user who changes makes a new
// connection. What the client of an event stream posts has to come from this user.
//
// A user whose session has ended already closes the connection with 4401, and the error is
// ErrClosed. After any other error the connection is whose it was. SetUser waits as
// [Conn.Join] does.
func (c *Conn) SetUser(u User) error {
	info, err := marshalInfo(u)
	if err != nil {
		return err
	}
	if u.ID == "" {
		err = errors.New("it has no ID")
	} else {
		err = c.setUser(&knownUser{u, info, uptime()})
	}
	if err != nil {
		return fmt.Errorf("grouphub: set user %s: %w", quoted(u.ID), err)
	}
	return nil
}

func (c *Conn) setUser(u *knownUser) error {
	for {
		before, loggingIn, err := c.changeUser(u)
		switch {
		case err != nil:
			return err
		case loggingIn != nil: // the user may be another one when that has ended
			select {
			case <-loggingIn:
				continue
			case <-c.ctx.Done():
				return errEnded
			}
		}
		c.hub.userChanged(c)
		if u.expired() {
			c.outbox.CloseWith(closeUnauthorized, "session expired")
			err = fmt.Errorf("the session has expired: %w", ErrClosed)
		}
		if before != nil {
			return c.logIn(before, err)
		}
		return err
	}
}

// changeUser sets the user. If this is a login, it returns who it was before, and the caller has
// to call logIn. If another login is under way, nothing is changed, and the caller waits for
// its end.
func (c *Conn) changeUser(u *knownUser) (before *knownUser, loggingIn <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.user.mu.Lock()
	defer c.user.mu.Unlock()
	old := c.user.current.Load()
	switch {
	case c.ended:
		return nil, nil, errEnded
	case c.user.login != nil:
		return nil, c.user.login, nil
	case old.ID == "":
		before = old
		c.user.login = make(chan struct{})
	case old.ID != u.ID:
		return nil, nil, fmt.Errorf("the connection is user %s's", quoted(old.ID))
	}
	c.setUserLocked(u)
	return before, nil, nil
}

// logIn joins the group of the connection's new user, unless an error says that it is to be no
// user's after all. If it fails, the connection is whose it was.
func (c *Conn) logIn(before *knownUser, err error) error {
	if err == nil {
		err = c.joinUserGroup()
	}
	c.user.mu.Lock()
	close(c.user.login)
	c.user.login = nil
	if err != nil {
		c.setUserLocked(before)
	}
	c.user.mu.Unlock()
	if err != nil {
		c.hub.userChanged(c)
	}
	return err
}

// joinUserGroup makes the connection a member of its user's group.
func (c *Conn) joinUserGroup() error {
	return c.hub.join(c.ctx, c, UserGroup(c.user.current.Load().ID), sequence.Replay{})
}

// setUserLocked sets the user, and the timer that ends its session, with the connUser's mu held.
func (c *Conn) setUserLocked(u *knownUser) {
	c.user.current.Store(u)
	if c.user.expiry != nil {
		c.user.expiry.Stop()
		c.user.expiry = nil
	}
	if !u.Expires.IsZero() && !c.user.over {
		c.user.expiry = time.AfterFunc(time.Until(u.Expires), c.expire)
	}
}

// startExpiry has the connection closed when its user's session ends. It reports false if it
// has ended already.
func (c *Conn) startExpiry() bool {
	c.user.mu.Lock()
	defer c.user.mu.Unlock()
	u := c.user.current.Load()
	c.setUserLocked(u)
	return !u.expired()
}

// stopExpiry is called when the connection has ended. A timer would keep it in memory.
func (c *Conn) stopExpiry() {
	c.user.mu.Lock()
	defer c.user.mu.Unlock()
	c.user.over = true
	if c.user.expiry != nil {
		c.user.expiry.Stop()
	}
}

// expire closes the connection if its user's session has ended. The timer may run although it
// was stopped a moment ago, and a little before its time if the clock was put back.
func (c *Conn) expire() {
	c.user.mu.Lock()
	u := c.user.current.Load()
	expired := u.expired()
	if !expired {
		c.setUserLocked(u)
	}
	c.user.mu.Unlock()
	if expired {
		c.outbox.CloseWith(closeUnauthorized, "session expired")
	}
}

// Renew moves User.Expires of a user's connections on every hub, which prolongs the session, or
// ends it: a time that has passed closes them with 4401. The zero time means never. A hub that
// is cut off does so as soon as it is back, and leaves connections alone whose user was told
// later, by [Authenticate] or [Conn.SetUser]. An upgrade that was already authenticated can miss
// it, and then has the Expires that it came with.
//
// Renew is a command to all hubs, of which 10,000 are kept for those that are cut off. So it is
// for sessions that were prolonged, and not for each request of a user.
func (h *Hub) Renew(ctx context.Context, userID string, expires time.Time) error {
	if userID == "" {
		return fmt.Errorf("%w: renew: the user's ID is empty", ErrInvalidName)
	}
	env := &envelope.Envelope{Kind: envelope.Renew, Name: userID}
	var err error
	if !expires.IsZero() {
		env.Body, err = expires.UTC().MarshalBinary()
	}
	if err == nil {
		err = h.publish(ctx, controlTopic, env.Encode(), controlKeep)
	}
	if err != nil {
		return fmt.Errorf("grouphub: renew user %s: %w", quoted(userID), err)
	}
	return nil
}

// renewUser carries out a Renew for the connections of this hub. It never blocks.
func (h *Hub) renewUser(env *envelope.Envelope) error {
	var expires time.Time
	if len(env.Body) > 0 {
		if err := expires.UnmarshalBinary(env.Body); err != nil {
			return fmt.Errorf("renew: %w", err)
		}
	}
	if g := h.group(UserGroup(env.Name)); g != nil {
		for _, c := range g.conns() {
			c.renew(env, expires)
		}
	}
	return nil
}

// renew moves the end of the user's session, unless the user was told after the Renew was sent.
func (c *Conn) renew(env *envelope.Envelope, expires time.Time) {
	c.user.mu.Lock()
	defer c.user.mu.Unlock()
	u := *c.user.current.Load()
	if u.ID != env.Name || u.since > env.SentBefore {
		return
	}
	u.Expires = expires
	c.setUserLocked(&u)
}
