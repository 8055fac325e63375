package grouphub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub/internal/envelope"
)

const (
	publishOverhead = 8 << 10 // bytes that one event's request may have besides its data
	publishListMax  = 4 << 20 // bytes of a list
)

// PublishHandler returns a handler by which programs that are not written in Go send events:
// they POST JSON, whatever its Content-Type,
//
//	{"group": "room:lobby", "type": "chat.message", "data": {"text": "Hello"}}
//
// or a list of these. In place of "group", "channel" names a channel as for [Hub.Send], and
// "user" is the ID of a user whose every connection gets the event. "data" may be absent.
// "once" is the key of [Once] and "exceptUser" a list as for [ExceptUser]; both are for groups
// and users only. One event may have Options.MaxEventSize and a few KB, a list 4 MB.
//
// The answer is 204 when everything was sent. Otherwise it is JSON as well:
//
//	{"error": "…", "field": "type", "index": 1, "safe": true}
//
// "field" is what is wrong with the request, "index" where in a list the handler stopped, and
// "safe" whether that event has not been sent, or has a key for Once, so that it can be sent
// again. A list is checked whole before anything is sent; if a layer fails later, what comes
// before the index has been sent. The status is 400 for what makes no sense, 405 for another
// method, 410 for the channel of a connection of this hub that
// has ended, 413 for what is too
// large, 429 for a full queue, and 503, with Retry-After, for a layer that is down and a hub
// that has shut down.
//
// authorize is asked before the body is read, for each request. An error of it is answered by
// 401, or as a [*Reject] says, and logged as [Authenticate] does. It should look at a secret in
// a header, not at a cookie: a browser that sends a request from another site's page is refused
// with 403. PublishHandler panics if authorize is nil: everybody could send to everybody.
func PublishHandler(hub *Hub, authorize func(r *http.Request) error) http.Handler {
	if authorize == nil {
		panic("grouphub: PublishHandler without authorize")
	}
	return &publishHandler{hub, authorize}
}

type publishHandler struct {
	hub       *Hub
	authorize func(r *http.Request) error
}

// A publishRequest is one event of a request.
type publishRequest struct {
	Group      *string         `json:"group"`
	Channel    *string         `json:"channel"`
	User       *string         `json:"user"`
	Type       string          `json:"type"`
	Data       json.RawMessage `json:"data"`
	Once       string          `json:"once"`
	ExceptUser []string        `json:"exceptUser"`

	to, name string // which of the first three it has, and the name of that group or channel
}

// A publishError is the answer to a request that failed.
type publishError struct {
	Message string `json:"error"`
	Field   string `json:"field,omitempty"`
	Index   *int   `json:"index,omitempty"` // in a list
	Safe    bool   `json:"safe"`
	status  int
}

func (e *publishError) Error() string { return e.Message }

// wrongField is the error of a request that makes no sense.
func wrongField(field string, err error) *publishError {
	return &publishError{Message: err.Error(), Field: field, Safe: true, status: http.StatusBadRequest}
}

func (h *publishHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.admit(w, r)
	if err == nil {
		err = h.publish(w, r)
	}
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err.status == http.StatusServiceUnavailable || err.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1") // second
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(err.status)
	_ = json.NewEncoder(w).Encode(err) // fails if the client has gone
}

// admit says who may publish.
func (h *publishHandler) admit(w http.ResponseWriter, r *http.Request) *publishError {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return &publishError{Message: "this takes POST", Safe: true, status: http.StatusMethodNotAllowed}
	}
	fallback := http.StatusForbidden
	err := http.NewCrossOriginProtection().Check(r)
	if err == nil {
		fallback, err = http.StatusUnauthorized, h.authorize(r)
	}
	if err != nil {
		logRefusal(h.hub.logger(), r, err)
		status, text := refusal(err, fallback)
		return &publishError{Message: text, Safe: true, status: status}
	}
	return nil
}

// publish reads a request and sends its events.
func (h *publishHandler) publish(w http.ResponseWriter, r *http.Request) *publishError {
	events, list, failed := h.read(w, r)
	if failed != nil {
		return failed
	}
	at := func(i int, err *publishError) *publishError {
		if err != nil && list {
			err.Index = &i
		}
		return err
	}
	var requests []publishRequest
	for i, event := range events {
		var request publishRequest
		err := decodePublish(event, &request)
		if err == nil {
			err = request.check(h.hub)
		}
		if err != nil {
			return at(i, err)
		}
		requests = append(requests, request)
	}
	for i := range requests {
		if err := requests[i].send(r.Context(), h.hub); err != nil {
			return at(i, err)
		}
	}
	return nil
}

// read returns the events of a request, and whether they came as a list.
func (h *publishHandler) read(w http.ResponseWriter, r *http.Request) (events []json.RawMessage, list bool, failed *publishError) {
	one := int64(h.hub.options.MaxEventSize) + publishOverhead
	limit := one
	limited := http.MaxBytesReader(w, r.Body, max(one, publishListMax))
	body, err := io.ReadAll(io.LimitReader(limited, one+1))
	if list = bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")); list && err == nil {
		var rest []byte
		rest, err = io.ReadAll(limited)
		body, limit = append(body, rest...), publishListMax
	}
	switch tooLarge := (*http.MaxBytesError)(nil); {
	case errors.As(err, &tooLarge), err == nil && int64(len(body)) > limit:
		return nil, list, &publishError{Message: fmt.Sprintf("%v: the request has more than %d bytes", ErrTooLarge, limit),
			Safe: true, status: http.StatusRequestEntityTooLarge}
	case err != nil:
	case !utf8.Valid(body):
		err = errors.New("it is not valid UTF-8")
	case list:
		err = json.Unmarshal(body, &events)
	default:
		events = make([]json.RawMessage, 1)
		err = json.Unmarshal(body, &events[0])
	}
	if err != nil {
		return nil, list, wrongField("", fmt.Errorf("grouphub: publish: the request's body: %w", err))
	}
	return events, list, nil
}

// decodePublish decodes one event of a request.
func decodePublish(event json.RawMessage, request *publishRequest) *publishError {
	if !bytes.HasPrefix(event, []byte("{")) {
		return wrongField("", fmt.Errorf("grouphub: publish: %s is no JSON object", quoted(string(event))))
	}
	decoder := json.NewDecoder(bytes.NewReader(event))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(request)
	if err == nil {
		return nil
	}
	var field string
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		field = wrong.Field
	} else if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		field, _ = strconv.Unquote(name)
	}
	return wrongField(field, fmt.Errorf("grouphub: publish: %w", err))
}

// check returns what is wrong with a request. It finds out what the request is for.
func (r *publishRequest) check(h *Hub) *publishError {
	given := 0
	for _, to := range []struct {
		field string
		name  *string
	}{{"group", r.Group}, {"channel", r.Channel}, {"user", r.User}} {
		if to.name != nil {
			given++
			r.to, r.name = to.field, *to.name
		}
	}
	if given != 1 {
		return wrongField("group", fmt.Errorf("grouphub: publish: %d of group, channel and user are given, want one", given))
	}
	isGroup := r.to != "channel"
	if r.to == "user" {
		r.name = UserGroup(r.name)
	}
	err := checkName("publish", r.name)
	if err == nil && strings.Contains(r.name, "!") && !isGroup {
		_, err = hubOf("publish", r.name)
	}
	if err != nil {
		return wrongField(r.to, err)
	}
	if err := checkName("publish: type", r.Type); err != nil {
		return wrongField("type", err)
	}
	if r.Once != "" && (!isGroup || h.policy(r.name).History == 0) {
		return wrongField("once", fmt.Errorf("grouphub: publish: once is for groups with history, which %s is not", quoted(r.name)))
	}
	if len(r.ExceptUser) > 0 && !isGroup {
		return wrongField("exceptUser", fmt.Errorf("grouphub: publish: exceptUser is for groups, which %s is not", quoted(r.name)))
	}
	group := r.name
	if !isGroup {
		group = ""
	}
	_, err = envelope.EncodeEvent(envelope.Envelope{}, group, r.Type, r.data(), h.options.MaxEventSize)
	if err == nil {
		return nil
	}
	wrong := wrongField("data", fmt.Errorf("grouphub: publish: event %s: %w", quoted(r.Type), err))
	if errors.Is(err, ErrTooLarge) {
		wrong.status = http.StatusRequestEntityTooLarge
	}
	return wrong
}

// data returns the event's data, nil if there are none.
func (r *publishRequest) data() any {
	if r.Data == nil {
		return nil
	}
	return r.Data
}

// send sends the event of a request that was checked.
func (r *publishRequest) send(ctx context.Context, h *Hub) *publishError {
	var err error
	if r.to == "channel" {
		err = h.Send(ctx, r.name, r.Type, r.data())
	} else {
		err = h.GroupSend(ctx, r.name, r.Type, r.data(), Once(r.Once), ExceptUser(r.ExceptUser...))
	}
	if err == nil {
		return nil
	}
	failed := &publishError{Message: err.Error(), Safe: true, status: http.StatusServiceUnavailable}
	switch {
	case errors.Is(err, ErrUncertain):
		failed.Safe = r.Once != ""
	case errors.Is(err, ErrUnavailable), h.alive() != nil:
	case errors.Is(err, ErrQueueFull):
		failed.status, failed.Field = http.StatusTooManyRequests, r.to
	case errors.Is(err, ErrClosed):
		failed.status, failed.Field = http.StatusGone, r.to
	default: // a layer's own error
		failed.status, failed.Safe = http.StatusInternalServerError, false
	}
	return failed
}
