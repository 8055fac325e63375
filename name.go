package grouphub

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxName is the longest group, channel or event name, in bytes.
	maxName = 255
	// userPrefix begins the names of users' groups, which only UserGroup makes.
	userPrefix = "!user/"
)

// checkName returns an error that wraps ErrInvalidName and says what is wrong,
// unless name is 1 to 255 bytes of valid UTF-8 without control characters.
func checkName(operation, name string) error {
	var fault string
	switch {
	case name == "":
		fault = "is empty"
	case len(name) > maxName:
		fault = fmt.Sprintf("has %d bytes, more than %d", len(name), maxName)
	case !utf8.ValidString(name):
		fault = "is not valid UTF-8"
	case strings.ContainsFunc(name, unicode.IsControl):
		fault = "has a control character"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s: %s %s", ErrInvalidName, operation, quoted(name), fault)
}

// checkGroup is checkName for what changes a membership: the groups of users
// are joined by the hub alone.
func checkGroup(operation, name string) error {
	if strings.HasPrefix(name, userPrefix) {
		return fmt.Errorf("%w: %s: %s is reserved for a user's group", ErrInvalidName, operation, quoted(name))
	}
	return checkName(operation, name)
}

// quoted makes a stranger's text fit for an error or a log: one line, printable, short.
func quoted(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return strconv.Quote(s)
}
