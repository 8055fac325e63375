package redis

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestRepliesOfBothProtocolsAreRead(t *testing.T) {
	for _, c := range []struct{ wire, want string }{
		{"+OK\r\n", `+"OK"`},
		{"-BUSY Redis is busy\r\n", `-"BUSY Redis is busy"`},
		{":-12\r\n", `:-12`},
		{"$5\r\nhe\r\no\r\n", `$"he\r\no"`},
		{"$0\r\n\r\n", `$""`},
		{"$-1\r\n", `$""`},
		{"_\r\n", `_""`},
		{"#t\r\n", `#"t"`},
		{"*-1\r\n", `*[]`},
		{">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n", `>[$"message" $"a" $"b"]`},
		{"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", `*[$"subscribe" $"a" :1]`},
		{"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n", `%[$"role" $"master"]`},
	} {
		got, err := readReply(bufio.NewReader(strings.NewReader(c.wire)))
		if err != nil || show(got) != c.want {
			t.Errorf("%q is read as %s, %v, want %s", c.wire, show(got), err, c.want)
		}
	}
}

func show(r reply) string {
	switch r.kind {
	case ':':
		return fmt.Sprint(":", r.number)
	case '*', '>', '%':
		var items []string
		for _, item := range r.items {
			items = append(items, show(item))
		}
		return fmt.Sprintf("%c[%s]", r.kind, strings.Join(items, " "))
	default:
		return fmt.Sprintf("%c%q", r.kind, r.text)
	}
}

func TestWhatIsNoReplyIsAnError(t *testing.T) {
	for _, wire := range []string{"x\r\n", "\r\n", "\n", "+OK\n", "$x\r\n", "$-2\r\n", "$600000000\r\n", "*2000000\r\n", ":x\r\n",
		strings.Repeat("*1\r\n", 20), "+" + strings.Repeat("x", 10_000)} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(wire))); err == nil {
			t.Errorf("%.40q is read as %s", wire, show(got))
		}
	}
	if _, err := readReply(bufio.NewReader(strings.NewReader("?\r\n"))); !errors.Is(err, errProtocol) {
		t.Errorf("%v, want errProtocol", err)
	}
}

func FuzzReplyTakesAnything(f *testing.F) {
	f.Add([]byte(">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"))
	f.Add([]byte("%1\r\n$4\r\nrole\r\n*1\r\n:5\r\n"))
	f.Add([]byte("$500000000\r\nx"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := bufio.NewReader(strings.NewReader(string(wire)))
		for {
			if _, err := readReply(r); err != nil {
				return
			}
		}
	})
}
