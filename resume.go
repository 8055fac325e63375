package grouphub

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"

	"github.com/seed-29c60982/grouphub/internal/sequence"
)

const (
	// maxRequestSize is how many bytes of a request may be kept with its connection: of its
	// header, and of its URL without the positions, if these are too many.
	maxRequestSize = 32 << 10
	// maxResumes is how many groups a client can resume, and maxResumeSize how many bytes
	// their names and positions may have. It gets a Resync of the groups beyond that.
	maxResumes    = 256
	maxResumeSize = 32 << 10
)

// Position returns where a group's history stands, as an ID. A page that is rendered from a
// query, and takes the position before that, connects with "?resume=<group>@<id>" in its URL,
// both escaped: it misses nothing that was sent since, and if the history does not reach back
// any more, it gets a snapshot or a Resync. The group must have history.
func (h *Hub) Position(ctx context.Context, group string) (string, error) {
	if err := checkName("position", group); err != nil {
		return "", err
	}
	err := h.alive()
	if err == nil && h.policy(group).History <= 0 {
		err = errors.New("the group has no history")
	}
	var end Position
	if err == nil {
		end, err = h.historyEnd(ctx, group)
	}
	if err == nil && end.Nonce == "" {
		err = fmt.Errorf("%w: the layer cannot begin a history", ErrUnavailable)
	}
	if err != nil {
		return "", fmt.Errorf("grouphub: position of group %s: %w", quoted(group), err)
	}
	return sequence.ID(end), nil
}

// historyEnd asks the layer for the position of the last event that was sent to a group.
func (h *Hub) historyEnd(ctx context.Context, group string) (Position, error) {
	end, err := h.layer.History(ctx, groupTopic(group), math.MaxInt64)
	return Position{Epoch: end.Epoch, Number: end.Last, Nonce: end.Nonce}, err
}

// otherGroups is in a connection's positions if there were more of them than are kept. No
// group has this name.
const otherGroups = ""

// A resumeRequest is what the resume parameters of a URL, group@id, ask for.
type resumeRequest struct {
	ids      map[string]string // the id for each group; nil if there are no such parameters
	overflow bool              // there are more than are kept
}

// parseResume reads the resume parameters of a URL's query.
func parseResume(query string) (asked resumeRequest) {
	if !strings.Contains(query, "resume") { // as in nearly all requests
		return asked
	}
	for size := 0; query != ""; {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		value, ok := resumeParameter(pair)
		if !ok {
			continue
		}
		if asked.ids == nil {
			asked.ids = make(map[string]string)
		}
		i := strings.LastIndexByte(value, '@') // an id has none
		if i <= 0 || i > maxName {             // no group has that name
			continue
		}
		if size += len(value); len(asked.ids) == maxResumes || size > maxResumeSize {
			asked.ids[otherGroups] = ""
			asked.overflow = true
			return asked
		}
		// The parts are cloned, since they would keep the whole query in memory.
		asked.ids[strings.Clone(value[:i])] = strings.Clone(value[i+1:])
	}
	return asked
}

// resumeParameter returns the value of a query's key and value, if the key is resume.
func resumeParameter(pair string) (value string, ok bool) {
	key, value, _ := strings.Cut(pair, "=")
	if key != "resume" {
		return "", false
	}
	value, err := url.QueryUnescape(value)
	return value, err == nil
}

// checkRequestSize returns the *Reject for a request of which too much would be kept.
func checkRequestSize(r *http.Request) error {
	size := len(r.RequestURI)
	for key, values := range r.Header {
		for _, value := range values {
			size += len(key) + len(value)
		}
	}
	if size > maxRequestSize {
		return &Reject{http.StatusRequestHeaderFieldsTooLarge, "the request's header and URL have more than 32 KiB"}
	}
	return nil
}

// resumesFrom returns the position from which the client wants to resume a group, and
// whether it does. The position is none if it was not kept. A stream's Last-Event-ID counts
// more than the URL.
func (c *Conn) resumesFrom(g *group) (r sequence.Replay, resumes bool) {
	if c.stream != nil {
		if r, resumes = c.stream.resumesFrom(g); resumes || c.stream.resumes {
			return r, resumes
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, resumes := c.resume[g.name]
	if !resumes {
		id, resumes = c.resume[otherGroups]
	}
	return sequence.Replay{After: id, From: true}, resumes
}
