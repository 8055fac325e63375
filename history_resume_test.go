package grouphub_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

func TestResumeReplaysWhatWasMissed(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	hubs := []*grouphub.Hub{historyHub(t, layer), historyHub(t, layer)}
	c := hubtest.Dial(t, hubs[0], "/g?resume=")
	var position grouphub.Event
	json.Unmarshal(c.Next().Data, &position)
	if position.Type != "grouphub.position" || position.Group != "g" || position.ID == "" {
		t.Fatalf("got %+v", position)
	}
	c.Close() // before the first event
	sendNumbers(t, hubs[1], "g", 1, 10)
	c = hubtest.Dial(t, hubs[1], "/g"+resumeQuery("g", position.ID))
	id := expectNumbers(t, c, 1, 10).ID
	if got := c.ExpectEvent("grouphub.position"); got.ID != id {
		t.Errorf("position %q, want %q", got.ID, id)
	}
	c.Close()
	sendNumbers(t, hubs[0], "g", 11, 20)
	c = hubtest.Dial(t, hubs[0], "/g?last=3&resume="+url.QueryEscape("g@"+id)) // what the client says wins
	expectNumbers(t, c, 11, 20)
}

func TestAClientThatAskedForPositionsIsToldWhenOneEnds(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: func(group string) (p grouphub.GroupPolicy) {
		if group != "no history" {
			p.History = 10
		}
		return p
	}, Consumer: grouphub.Consumer{
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, m struct{ Join, Leave string }) error {
			if m.Join != "" {
				return c.Join(m.Join, grouphub.Last(1))
			}
			return errors.Join(c.Leave(m.Leave), c.SendJSON("left"))
		}),
		Events: grouphub.Events{"n": grouphub.Forward()},
	}})
	leave := func(c *hubtest.Client, group string) { c.Send(map[string]string{"Leave": group}) }
	c := hubtest.Dial(t, hub, "/?resume=")
	c.Send(`{"Join":"no history"}`)
	leave(c, "no history")
	c.Expect(`"left"`)
	for range 2 { // as often as it joins
		c.Send(`{"Join":"g"}`)
		c.ExpectEvent("grouphub.position")
		leave(c, "g")
		c.Expect(`{"type":"grouphub.left","group":"g"}`)
		c.Expect(`"left"`)
		leave(c, "g")
		c.Expect(`"left"`)
	}
	silent := hubtest.Dial(t, hub, "/")
	silent.Send(`{"Join":"g"}`)
	leave(silent, "g")
	silent.Expect(`"left"`)
}

func TestUsersGroupResumesLikeAnyGroup(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
		Events: grouphub.Events{"n": grouphub.Forward()}}})
	h := authenticate(hub)
	group := grouphub.UserGroup("ann")
	c := hubtest.Dial(t, h, "/?user=ann")
	sendNumbers(t, hub, group, 1, 1)
	id := expectNumbers(t, c, 1, 1).ID
	c.Close()
	sendNumbers(t, hub, group, 2, 3)
	expectNumbers(t, hubtest.Dial(t, h, "/"+resumeQuery(group, id)+"&user=ann"), 2, 3)
}

func TestSlowClientComesBackAndGetsWhatItMissed(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(5_000), MaxPending: 64 << 10, CloseTimeout: 20 * time.Second,
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join("g") },
			Events:  grouphub.Events{"n": grouphub.Forward()},
		}})
	s := serve(t, hub)
	c := s.dial("/?resume=")
	text := strings.Repeat("x", 30<<10)
	sent := 0
	for ; hub.Stats().SlowClosed == 0; sent++ {
		send(t, hub, "g", "n", fmt.Sprint(sent, text))
	}
	position, got, closes := "", 0, 0
	for got < sent {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		var e grouphub.Event
		if err := c.ReadJSON(&e); websocket.IsCloseError(err, 1013) {
			closes++
			c = s.dial("/" + resumeQuery("g", position))
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if position = e.ID; e.Type == "grouphub.position" {
			continue
		}
		if want := fmt.Sprintf(`"%dx`, got); e.Type != "n" || !strings.HasPrefix(string(e.Data), want) {
			t.Fatalf("got %s %.60s, want %s", e.Type, e.Data, want)
		}
		got++
	}
	if closes == 0 || hub.Stats().Resyncs != 0 {
		t.Errorf("closed %d times with 1013, %+v", closes, hub.Stats())
	}
}

func TestAJoinThatFailedLeavesTheResumeToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		other := historyHub(t, layer.MemoryLayer)
		c := hubtest.Dial(t, other, "/g")
		sendNumbers(t, other, "g", 1, 1)
		id := expectNumbers(t, c, 1, 1).ID
		sendNumbers(t, other, "g", 2, 3)
		var failed atomic.Int32
		hub := newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(100), Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error {
				// The layer is down for longer than a Join lasts.
				err := c.Join("g")
				if errors.Is(err, grouphub.ErrUnavailable) {
					failed.Add(1)
					layer.down.Store(false)
					err = c.Join("g")
				}
				return err
			},
			Events: grouphub.Events{"n": grouphub.Forward()},
		}})
		layer.down.Store(true)
		client := dialPipe(t, hub, "/"+resumeQuery("g", id))
		defer client.Close()
		for i := 2; i <= 3; i++ {
			if got := next(t, client); !strings.Contains(got, fmt.Sprintf(`"data":%d}`, i)) {
				t.Errorf("got %s, want %d", got, i)
			}
		}
		if failed.Load() != 1 {
			t.Error("no Join failed")
		}
	})
}

func TestResumeOfWhatIsGoneIsResync(t *testing.T) {
	hub := historyHub(t, nil)
	c := hubtest.Dial(t, hub, "/g")
	sendNumbers(t, hub, "g", 1, 1)
	id := expectNumbers(t, c, 1, 1).ID
	sendNumbers(t, hub, "g", 2, 102) // of which 100 are kept
	for _, bad := range []string{id, "", "x", "a.b.c", "..", strings.Repeat("x", 1000), "zzz.1.", id + "9"} {
		c := hubtest.Dial(t, hub, "/g"+resumeQuery("g", bad))
		c.Expect(`{"type":"resync","group":"g"}`)
		c.ExpectEvent("grouphub.position")
		sendNumbers(t, hub, "g", 103, 103)
		expectNumbers(t, c, 103, 103)
	}
	// One event less, and all is there.
	c = hubtest.Dial(t, hub, "/h")
	sendNumbers(t, hub, "h", 1, 1)
	id = expectNumbers(t, c, 1, 1).ID
	sendNumbers(t, hub, "h", 2, 101)
	expectNumbers(t, hubtest.Dial(t, hub, "/h"+resumeQuery("h", id)), 2, 101)
}

// Each of these sends messages that do not say their event's id. A position follows them.
func TestAClientResumesAfterWhatItsHandlersHaveDone(t *testing.T) {
	text := func(e grouphub.Event) string { return fmt.Sprintf(`{"type":"mine","data":%s}`, e.Data) }
	handle := grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error { return c.Send([]byte(text(e))) })
	render := grouphub.Render(func(e grouphub.Event) ([]byte, error) { return []byte(text(e)), nil })
	for name, events := range map[string]grouphub.Events{
		"Handle": {"*": handle},
		"HandleAs": {"*": grouphub.HandleAs(func(c *grouphub.Conn, n int) error {
			return c.SendJSON(map[string]any{"type": "mine", "data": n})
		})},
		"Render":                     {"*": render},
		"Handle, Render and Forward": {"0": handle, "1": render, "2": grouphub.Forward()},
	} {
		for _, compressed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " compressed=", compressed), func(t *testing.T) {
				hub := newHub(t, &grouphub.Options{Policy: keeping(100), Compression: true, Consumer: grouphub.Consumer{
					Connect: func(c *grouphub.Conn) error { return c.Join("g") },
					Events:  events,
				}})
				s := serve(t, hub)
				sent, got := 0, 0
				sendSome := func(n int) {
					for range n {
						send(t, hub, "g", fmt.Sprint(sent%3), sent)
						sent++
					}
				}
				for query := "?resume="; sent < 50; sendSome(3) { // while the client is away
					c := s.dialWith(&websocket.Dialer{EnableCompression: compressed}, "/"+query)
					sendSome(7)
					for told := true; got < sent || !told; {
						var e grouphub.Event
						if err := c.ReadJSON(&e); err != nil {
							t.Fatal(err)
						}
						if e.ID != "" {
							query = resumeQuery("g", e.ID)
						}
						switch {
						case e.Type == "grouphub.position":
							told = true
						case !told || e.Type == "resync" || string(e.Data) != fmt.Sprint(got):
							t.Fatalf("got %+v, want %d, and after it where it is: %v", e, got, told)
						default:
							got++
							told = e.ID != ""
						}
					}
					c.Close()
				}
			})
		}
	}
}

func TestAClientThatWantsNoPositionsGetsNone(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Policy: keeping(100), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") },
		Events: grouphub.Events{
			"handle": grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error { return c.Send([]byte("handled")) }),
			"id":     grouphub.Render(func(e grouphub.Event) ([]byte, error) { return json.Marshal(e.ID) }),
			"render": grouphub.Render(func(e grouphub.Event) ([]byte, error) { return []byte("rendered"), nil }),
		},
	}})
	plain, wants := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/?resume=")
	wants.ExpectEvent("grouphub.position")
	for event, text := range map[string]string{"handle": "handled", "render": "rendered"} {
		send(t, hub, "g", event, 1)
		plain.Expect([]byte(text))
		wants.Expect([]byte(text))
		wants.ExpectEvent("grouphub.position")
	}
	send(t, hub, "g", "id", 1) // says it by itself
	send(t, hub, "g", "render", 1)
	plain.Next()
	plain.Expect([]byte("rendered"))
	wants.Next()
	wants.Expect([]byte("rendered"))
}

func TestAPositionFromBeforeTheFirstEventIsGoodForItsStoreOnly(t *testing.T) {
	hub := historyHub(t, grouphub.NewMemoryLayer())
	c := hubtest.Dial(t, hub, "/g?resume=")
	id := c.ExpectEvent("grouphub.position").ID
	c.Close()
	sendNumbers(t, hub, "g", 1, 2)
	expectNumbers(t, hubtest.Dial(t, hub, "/g"+resumeQuery("g", id)), 1, 2)
	// The process ends, and its history with it.
	restarted := historyHub(t, grouphub.NewMemoryLayer())
	c = hubtest.Dial(t, restarted, "/g"+resumeQuery("g", id))
	c.Expect(`{"type":"resync","group":"g"}`)
	c.ExpectEvent("grouphub.position")
	sendNumbers(t, restarted, "g", 3, 3)
	expectNumbers(t, c, 3, 3)
}

func TestAPositionThatWasMadeUpReplaysNothing(t *testing.T) {
	onBothLayers := func(t *testing.T, run func(t *testing.T, layer grouphub.Layer)) {
		t.Run("Memory", func(t *testing.T) { run(t, grouphub.NewMemoryLayer()) })
		t.Run("Redis", func(t *testing.T) { run(t, redisLayer(t, redistest.Start(t).URL(), nil)) })
	}
	onBothLayers(t, func(t *testing.T, layer grouphub.Layer) {
		hub := historyHub(t, layer)
		sendNumbers(t, hub, "g", 1, 20)
		stranger := hubtest.Dial(t, hub, "/g?resume=") // who may join, and has no right to the past
		given := strings.Split(stranger.ExpectEvent("grouphub.position").ID, ".")
		epoch, number, nonce := given[0], given[1], given[2]
		now := strconv.FormatInt(time.Now().Unix(), 36)
		for _, made := range []string{
			".0." + now, ".0.", "..", epoch + ".0.", epoch + ".0." + now, epoch + ".0." + nonce, epoch + ".1.", epoch + ".1." + nonce,
			epoch + "." + number + ".", epoch + "." + number + "." + now, "." + number + "." + nonce, epoch + ".j." + nonce,
			strings.ToLower(epoch) + "." + number + "." + nonce,
		} {
			c := hubtest.Dial(t, hub, "/g"+resumeQuery("g", made))
			c.Expect(`{"type":"resync","group":"g"}`)
			if at := c.ExpectEvent("grouphub.position"); at.ID != strings.Join(given, ".") {
				t.Errorf("after %q at %q, want %q", made, at.ID, given)
			}
			c.Close()
		}
		c := hubtest.Dial(t, hub, "/g"+resumeQuery("g", strings.Join(given, ".")))
		sendNumbers(t, hub, "g", 21, 21)
		c.ExpectEvent("grouphub.position")
		expectNumbers(t, c, 21, 21)
	})
}

func TestResumeOfAGroupWithoutHistoryIsResync(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer})
	c := hubtest.Dial(t, hub, "/"+resumeQuery("all", "A.5."))
	c.Expect(`{"type":"resync","group":"all"}`)
	send(t, hub, "all", "note", 1)
	c.ExpectEvent("note")
	hubtest.Dial(t, hub, "/"+resumeQuery("another", "A.5."))
	if n := hub.Stats().Resyncs; n != 1 {
		t.Errorf("%d Resyncs", n)
	}
}

func TestAPositionFromBeforeTheFirstEventIsNotGoodForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := grouphub.New(&grouphub.Options{
			Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { return c.Join("g") },
				Events:  grouphub.Events{"n": grouphub.Forward()},
			},
			Policy: func(string) grouphub.GroupPolicy {
				return grouphub.GroupPolicy{History: 10, HistoryTTL: time.Minute}
			},
		})
		c := hubtest.Dial(t, hub, "/?resume=")
		id := c.ExpectEvent("grouphub.position").ID
		c.Close()
		sendNumbers(t, hub, "g", 1, 1)
		time.Sleep(59 * time.Second)
		c = hubtest.Dial(t, hub, "/"+resumeQuery("g", id))
		expectNumbers(t, c, 1, 1)
		c.Close()
		time.Sleep(48 * time.Hour) // so that the layer has forgotten that there was an event
		c = hubtest.Dial(t, hub, "/"+resumeQuery("g", id))
		c.Expect(`{"type":"resync","group":"g"}`)
		c.Close()
		hub.Shutdown(background)
	})
}

func TestResyncCallbackTellsTheGroups(t *testing.T) {
	got := make(chan []string, 1)
	hub := newHub(t, &grouphub.Options{Policy: keeping(10), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") },
		Resync:  func(c *grouphub.Conn, groups []string) { got <- groups },
	}})
	hubtest.Dial(t, hub, "/?resume=g@stranger")
	if groups := <-got; len(groups) != 1 || groups[0] != "g" {
		t.Errorf("got %q", groups)
	}
	if n := hub.Stats().Resyncs; n != 1 {
		t.Errorf("%d resyncs", n)
	}
}
