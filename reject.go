package grouphub

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/seed-29c60982/grouphub/internal/eventstream"
)

// A *Reject is an error by which [Authenticate] and a Consumer's Accept choose the
// HTTP answer, and say that the refusal is meant: it is logged at debug level, where any
// other error is a warning. Status is 400 to 599; anything else counts as the status that an
// ordinary error gets. Reason is sent to the client as one line of plain text; if it is
// empty, the client gets the status's usual text. Of 503 an event stream's client gets a stream
// that is closed at once with 1013 and the Reason, since an EventSource that is answered by 503
// does not come back.
type Reject struct {
	Status int
	Reason string
}

func (r *Reject) Error() string {
	return fmt.Sprintf("grouphub: rejected with %d: %s", r.Status, r.Reason)
}

// refuse refuses a request: it counts and logs that, and answers it.
func (h *Hub) refuse(w http.ResponseWriter, r *http.Request, err error, fallback int) {
	h.count.rejected.Add(1)
	logRefusal(h.logger(), r, err)
	h.answerRefused(w, r, err, fallback)
}

// answerRefused answers a request as err says.
func (h *Hub) answerRefused(w http.ResponseWriter, r *http.Request, err error, fallback int) {
	status, text := refusal(err, fallback)
	if !isRefusedForATime(r, status) {
		h.answer(w, r, status, text, err)
		return
	}
	if h.options.Refuse != nil {
		h.options.Refuse(unsent{w.Header()}, r, status, err)
	}
	closeRefusedStream(w, text)
}

// answer answers a refused request, with a line of text unless the application does it.
func (h *Hub) answer(w http.ResponseWriter, r *http.Request, status int, text string, err error) {
	if h.options.Refuse != nil {
		h.options.Refuse(w, r, status, err)
		return
	}
	http.Error(w, text, status)
}

// An unsent response is written by an application, and not sent but for its header.
type unsent struct{ header http.Header }

func (u unsent) Header() http.Header         { return u.header }
func (u unsent) Write(p []byte) (int, error) { return len(p), nil }
func (u unsent) WriteHeader(int)             {}

// isRefusedForATime reports whether the answer is to be a stream that is closed at once.
func isRefusedForATime(r *http.Request, status int) bool {
	return status == http.StatusServiceUnavailable && asksForStream(r)
}

func closeRefusedStream(w http.ResponseWriter, text string) {
	streamHeader(w.Header())
	w.Write(eventstream.NewClose(closeTryAgainLater, text))
}

// logRefusal logs why a request is refused: at debug level if it is meant, by a *Reject, and
// as a warning if it is any other error.
func logRefusal(logger *slog.Logger, r *http.Request, err error) {
	level := slog.LevelWarn
	if reject := (*Reject)(nil); errors.As(err, &reject) {
		level = slog.LevelDebug
	}
	logger.Log(r.Context(), level, "grouphub: request refused", "path", quoted(r.URL.Path), "error", err)
}

// hubBehind returns the hub that a handler passes a request on to, nil if that does not show.
func hubBehind(h http.Handler, r *http.Request) *Hub {
	for {
		switch next := h.(type) {
		case *Hub:
			return next
		case *endpoint:
			return next.hub
		case *middleware:
			h = next.next
		case *http.ServeMux:
			h, _ = next.Handler(r)
		default:
			return nil
		}
	}
}

// refusal returns what a request is answered: what err says, if it is a *Reject. Any other
// error gets the fallback status, and its text is not sent: it may not be meant for strangers.
func refusal(err error, fallback int) (status int, text string) {
	status, reason := fallback, ""
	var r *Reject
	if errors.As(err, &r) && r != nil {
		reason = r.Reason
		if r.Status >= 400 && r.Status <= 599 {
			status = r.Status
		}
	}
	return status, cmp.Or(oneLine(reason), http.StatusText(status), "refused")
}
