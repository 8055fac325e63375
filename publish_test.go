package grouphub_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// publish sends a request to a hub's PublishHandler.
func publish(hub *grouphub.Hub, body string) *httptest.ResponseRecorder {
	h := grouphub.PublishHandler(hub, func(*http.Request) error { return nil })
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/publish", strings.NewReader(body)))
	return w
}

// A refusal is what a PublishHandler answers.
type refusal struct {
	Error, Field string
	Index        *int
	Safe         bool
}

// wantRefusal checks the answer to a request. An index of -1 stands for none.
func wantRefusal(t *testing.T, w *httptest.ResponseRecorder, status int, field string, index int, safe bool) {
	t.Helper()
	var got refusal
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	gotIndex := -1
	if got.Index != nil {
		gotIndex = *got.Index
	}
	if w.Code != status || got.Error == "" || got.Field != field || gotIndex != index || got.Safe != safe {
		t.Errorf("%d %s, want %d with field %q, index %d, safe %t", w.Code, w.Body, status, field, index, safe)
	}
	if kind := w.Header().Get("Content-Type"); kind != "application/json" {
		t.Errorf("Content-Type %q", kind)
	}
}

func publishHub(t *testing.T, layer grouphub.Layer) *grouphub.Hub {
	return newHub(t, &grouphub.Options{Layer: layer, Logger: quiet(), MaxEventSize: 1000,
		Policy: func(group string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{History: map[bool]int{true: 10}[group == "kept"]}
		},
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("g"), c.Join("kept")) },
			Events:  grouphub.Events{"*": grouphub.Forward()},
		}})
}

func TestPublishHandlerSendsToGroupsUsersAndChannels(t *testing.T) {
	hub := publishHub(t, nil)
	ann := hubtest.Dial(t, authenticate(hub), "/?user=ann")
	for _, test := range []struct {
		body string
		want []string // what her page gets
	}{
		{`{"group":"g","type":"note","data":{"n":1}}`, []string{`{"type":"note","group":"g","data":{"n":1}}`}},
		{` [ {"group":"g","type":"one"}, {"group":"g","type":"two"} ]`, []string{`{"type":"one","group":"g"}`, `{"type":"two","group":"g"}`}},
		{`{"user":"ann","type":"hers","data":null}`, []string{`{"type":"hers","group":"!user/ann","data":null}`}},
		{`[]`, nil},
		{`{"channel":"jobs","type":"work","data":[1]}`, nil},
		{`{"group":"g","type":"not for her","exceptUser":["bob","ann"]}`, nil},
		{`{"group":"g","type":"last"}`, []string{`{"type":"last","group":"g"}`}},
	} {
		if w := publish(hub, test.body); w.Code != http.StatusNoContent || w.Body.Len() > 0 {
			t.Errorf("%s: %d %s", test.body, w.Code, w.Body)
		}
		for _, want := range test.want {
			ann.Expect(want)
		}
	}
	for range 2 {
		publish(hub, `{"group":"kept","type":"once","once":"key"}`)
	}
	publish(hub, `{"group":"kept","type":"after"}`)
	ann.ExpectEvent("once")
	ann.ExpectEvent("after")
	if e, err := hub.Receive(background, "jobs"); err != nil || e.Type != "work" || string(e.Data) != "[1]" {
		t.Errorf("%v, %v", e, err)
	}
}

func TestPublishHandlerNamesTheFieldThatIsWrong(t *testing.T) {
	hub := publishHub(t, nil)
	for body, field := range map[string]string{
		``:                                      "",
		`{`:                                     "",
		`null`:                                  "",
		`"text"`:                                "",
		`{"group":"g","type":"n"}]`:             "",
		"{\"group\":\"\xff\",\"type\":\"n\"}":   "",
		`{"type":"n"}`:                          "group",
		`{"group":"g","user":"ann","type":"n"}`: "group",
		`{"group":"","type":"n"}`:               "group",
		`{"group":7,"type":"n"}`:                "group",
		`{"user":"","type":"n"}`:                "user",
		`{"channel":"line\nbreak","type":"n"}`:  "channel",
		`{"channel":"!of-no-hub","type":"n"}`:   "channel",
		`{"group":"g"}`:                         "type",
		`{"group":"g","type":["n"]}`:            "type",
		`{"group":"g","type":"n","once":"key"}`: "once",
		`{"channel":"jobs","type":"n","once":"key"}`:         "once",
		`{"user":"ann","type":"n","once":"key"}`:             "once",
		`{"channel":"jobs","type":"n","exceptUser":["ann"]}`: "exceptUser",
		`{"group":"g","type":"n","exceptUser":"ann"}`:        "exceptUser",
		`{"group":"g","type":"n","payload":{}}`:              "payload",
	} {
		wantRefusal(t, publish(hub, body), http.StatusBadRequest, field, -1, true)
		if body != "" && body != "{" && field != "" {
			wantRefusal(t, publish(hub, `[{"group":"g","type":"n"},`+body+`]`), http.StatusBadRequest, field, 1, true)
		}
	}
	if n := hub.Stats().Published; n != 0 {
		t.Errorf("%d events were sent of lists in which one is wrong", n)
	}
}

func TestPublishHandlerLimitsWhatItReads(t *testing.T) {
	hub := publishHub(t, nil)
	long := strings.Repeat("x", 1000)
	wantRefusal(t, publish(hub, `{"group":"g","type":"n","data":"`+long+`"}`), http.StatusRequestEntityTooLarge, "data", -1, true)
	wantRefusal(t, publish(hub, `{"group":"`+strings.Repeat(long, 100)), http.StatusRequestEntityTooLarge, "", -1, true)
	wantRefusal(t, publish(hub, `["`+strings.Repeat(long, 4200)), http.StatusRequestEntityTooLarge, "", -1, true)
	many := strings.Repeat(`{"group":"g","type":"n","data":"`+long[:900]+`"},`, 4000)
	if w := publish(hub, "["+many[:len(many)-1]+"]"); w.Code != http.StatusNoContent {
		t.Errorf("a list of 3.8 MB: %d %s", w.Code, w.Body)
	}
}

func TestPublishHandlerSaysWhereAListStoppedAndWhatIsSafe(t *testing.T) {
	layer := newFaultyLayer()
	hub := publishHub(t, layer)
	const list = `[{"group":"g","type":"n"},{"group":"kept","type":"n","once":"key"}]`
	for fault, safe := range map[error]bool{grouphub.ErrUnavailable: true, grouphub.ErrUncertain: false, errors.New("other"): false} {
		layer.publish = func(grouphub.Publication) error { return fault }
		status := http.StatusServiceUnavailable
		if fault.Error() == "other" {
			status = http.StatusInternalServerError
		}
		w := publish(hub, `{"group":"g","type":"n"}`)
		wantRefusal(t, w, status, "", -1, safe)
		if after := w.Header().Get("Retry-After"); (after == "1") != (status == http.StatusServiceUnavailable) {
			t.Errorf("%v: Retry-After %q", fault, after)
		}
		layer.publish = func(p grouphub.Publication) error {
			if p.Keep.Count > 0 {
				return fault
			}
			return nil
		}
		// With a key for Once, what is uncertain may be repeated.
		wantRefusal(t, publish(hub, list), status, "", 1, safe || errors.Is(fault, grouphub.ErrUncertain))
	}
	layer.publish = nil
	for range 100 {
		publish(hub, `{"channel":"jobs","type":"n"}`)
	}
	full := publish(hub, `{"channel":"jobs","type":"n"}`)
	wantRefusal(t, full, http.StatusTooManyRequests, "channel", -1, true)
	if full.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	hub.Shutdown(background)
	wantRefusal(t, publish(hub, `{"group":"g","type":"n"}`), http.StatusServiceUnavailable, "", -1, true)
}

func TestPublishHandlerSaysThatAConnectionHasEnded(t *testing.T) {
	hub, conns := connections(t, grouphub.Consumer{})
	c := hubtest.Dial(t, hub, "/")
	channel := (<-conns).Channel()
	c.Close()
	eventually(t, func() bool { return hub.Stats().Conns == 0 }, "the connection lives on")
	wantRefusal(t, publish(hub, fmt.Sprintf(`{"channel":%q,"type":"n"}`, channel)), http.StatusGone, "channel", -1, true)
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) { u.t.Error("the body is read"); return 0, io.EOF }

func TestPublishHandlerAuthorizesBeforeItReadsTheBody(t *testing.T) {
	hub := publishHub(t, nil)
	for _, test := range []struct {
		method, site string
		err          error
		status       int
		text         string
	}{
		{"POST", "", errors.New("the password is wrong"), http.StatusUnauthorized, "Unauthorized"},
		{"POST", "", &grouphub.Reject{Status: 403, Reason: "not from here"}, http.StatusForbidden, "not from here"},
		{"POST", "cross-site", nil, http.StatusForbidden, "Forbidden"},
		{"GET", "", nil, http.StatusMethodNotAllowed, "POST"},
		{"PUT", "", nil, http.StatusMethodNotAllowed, "POST"},
	} {
		h := grouphub.PublishHandler(hub, func(*http.Request) error { return test.err })
		r := httptest.NewRequest(test.method, "/publish", unread{t})
		r.Header.Set("Sec-Fetch-Site", test.site)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		wantRefusal(t, w, test.status, "", -1, true)
		if !strings.Contains(w.Body.String(), test.text) || strings.Contains(w.Body.String(), "password") {
			t.Errorf("%s, want %q", w.Body, test.text)
		}
	}
}

func TestPublishHandlerWithoutAuthorizePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	grouphub.PublishHandler(publishHub(t, nil), nil)
}
