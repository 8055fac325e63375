package grouphub

import (
	"fmt"
	"strings"

	"github.com/seed-29c60982/grouphub/internal/name"
)

const (
	// maxName is the longest group, channel or event name, in bytes.
	maxName = 255
	// userPrefix begins the names of users' groups, which only UserGroup makes.
	userPrefix = "!user/"
)

// checkName returns an error that wraps ErrInvalidName and says what is wrong,
// unless s is 1 to 255 bytes of valid UTF-8 without control characters.
func checkName(operation, s string) error {
	if fault := name.Fault(s, maxName); fault != "" {
		return fmt.Errorf("%w: %s: %s %s", ErrInvalidName, operation, quoted(s), fault)
	}
	return nil
}

// checkGroup is checkName for what changes a membership: the groups of users
// are joined by the hub alone.
func checkGroup(operation, group string) error {
	if strings.HasPrefix(group, userPrefix) {
		return fmt.Errorf("%w: %s: %s is reserved for a user's group", ErrInvalidName, operation, quoted(group))
	}
	return checkName(operation, group)
}

func quoted(s string) string { return name.Quote(s) }
