package grouphub

import (
	"errors"
	"strings"
	"testing"
)

func TestNamesAreChecked(t *testing.T) {
	for _, s := range []string{"a", "room:lobby", "日本", " ", "!user", "\u2028", strings.Repeat("é", 127)} {
		if err := checkGroupName("join", s); err != nil {
			t.Error(err)
		}
	}
	for s, want := range map[string]string{
		"":                       `grouphub: invalid name: join: "" is empty`,
		strings.Repeat("a", 256): `grouphub: invalid name: join: "` + strings.Repeat("a", 80) + `"… has 256 bytes, more than 255`,
		"a\xff":                  `grouphub: invalid name: join: "a\xff" is not valid UTF-8`,
		"a\n":                    `grouphub: invalid name: join: "a\n" has a control character`,
		"\u0085":                 `grouphub: invalid name: join: "\u0085" has a control character`,
		"!user/7":                `grouphub: invalid name: join: "!user/7" is reserved for a user's group`,
	} {
		err := checkGroupName("join", s)
		if !errors.Is(err, ErrInvalidName) || err.Error() != want {
			t.Errorf("checkGroupName(%.20q) = %v, want %s", s, err, want)
		}
	}
	if err := checkName("send", "!user/7"); err != nil {
		t.Errorf("a user's group can be sent to: %v", err)
	}
}

func FuzzUserGroupName(f *testing.F) {
	for _, s := range []string{"7", "%", "%s", "a\x00", "\xff", "%FF", "\u0085", "%sha256-", strings.Repeat("%", 83)} {
		f.Add(s, s+"x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, id := range []string{a, b, a + strings.Repeat("%", 83)} {
			if id == "" {
				continue
			}
			group := UserGroup(id)
			if err := checkName("user group", group); err != nil || !strings.HasPrefix(group, userPrefix) {
				t.Errorf("UserGroup(%q) = %q: %v", id, group, err)
			}
			// Whoever takes the name for an ID must not end up in the group.
			if UserGroup(group) == group || UserGroup(strings.TrimPrefix(group, userPrefix)) == group && encodeName(id, maxName) != id {
				t.Errorf("UserGroup(%q) = %q is the group of its own name", id, group)
			}
		}
		if a != b && UserGroup(a) == UserGroup(b) {
			t.Errorf("%q and %q have the same group %q", a, b, UserGroup(a))
		}
	})
}
