package grouphub

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxName is how many bytes the name of a group, a channel or an event may have.
	maxName = 255
	// userPrefix begins the names of users' groups, which only UserGroup makes.
	userPrefix = "!user/"
)

// checkName returns an error that wraps ErrInvalidName and says what is wrong, unless the name
// is 1 to 255 bytes of valid UTF-8 without control characters.
func checkName(operation, name string) error {
	if wrong := wrongName(name); wrong != "" {
		return fmt.Errorf("%w: %s: %s %s", ErrInvalidName, operation, quoted(name), wrong)
	}
	return nil
}

// checkGroupName is checkName for what changes a membership: the groups of users are joined by the
// hub alone.
func checkGroupName(operation, group string) error {
	if strings.HasPrefix(group, userPrefix) {
		return fmt.Errorf("%w: %s: %s is reserved for a user's group", ErrInvalidName, operation, quoted(group))
	}
	return checkName(operation, group)
}

func wrongName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > maxName:
		return fmt.Sprintf("has %d bytes, more than %d", len(name), maxName)
	case !utf8.ValidString(name):
		return "is not valid UTF-8"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "has a control character"
	}
	return ""
}

// quoted makes a stranger's text fit for an error or a log: it is short, printable, and on
// one line.
func quoted(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return strconv.Quote(s)
}

// encodeName turns any text into a part of a name that has at most so many bytes. Different
// texts never become the same. A text that could be a name stays as it is, except for its
// percent signs.
func encodeName(s string, most int) string {
	if len(s) <= most {
		if escaped := escapeName(s); len(escaped) <= most {
			return escaped
		}
	}
	// No escaped text begins like this: a percent sign in it is followed by two hex digits.
	sum := sha256.Sum256([]byte(s))
	return "%sha256-" + hex.EncodeToString(sum[:])
}

// escapeName replaces what a name may not have, and the percent sign, by a percent sign and
// two hex digits for each byte, so that it can be undone.
func escapeName(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if invalid := r == utf8.RuneError && size == 1; invalid || r == '%' || unicode.IsControl(r) {
			for _, c := range []byte(s[:size]) {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		} else {
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

// oneLine replaces control characters, line breaks among them, by spaces.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, s))
}
