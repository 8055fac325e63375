package eventstream

import (
	"bufio"
	"bytes"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// An event is what a client's page sees of a block.
type event struct{ name, data, id string }

// read parses a stream as the standard tells clients to, with the last id that was given.
func read(stream string) (events []event) {
	var e event
	var data []string
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(stream), "\n")
	for _, line := range lines[:len(lines)-1] {
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && data != nil:
			e.data = strings.Join(data, "\n")
			events = append(events, e)
			e, data = event{id: e.id}, nil
		case line == "":
			e.name = ""
		case field == "event":
			e.name = value
		case field == "data":
			data = append(data, value)
		case field == "id":
			e.id = value
		}
	}
	return events
}

func TestOnlyWhatIsForTheClientsPageIsAnEvent(t *testing.T) {
	for block, want := range map[string]bool{
		Comment:                                                        false,
		string(AppendOpen(nil, "token")):                               false,
		string(NewClose(1000, "")):                                     false,
		string(AppendBlock(nil, Position, nil, "x")):                   false,
		string(AppendBlock(nil, Binary, []byte("AA=="), "")):           true,
		string(AppendBlock(nil, "", []byte("x"), "")):                  true,
		string(AppendBlock(nil, "grouphub.opening", []byte("x"), "x")): true,
	} {
		if got := IsEvent([]byte(block)); got != want {
			t.Errorf("%q is an event: %v, want %v", block, got, want)
		}
	}
}

func TestBlockIsReadAsItWasMeant(t *testing.T) {
	for _, test := range []struct {
		name, data, id string
		want           string // of the block
		event          event
	}{
		{"", `{"type":"note"}`, "", "data: {\"type\":\"note\"}\n\n", event{"", `{"type":"note"}`, ""}},
		{"", "x", "7", "data: x\nid: 7\n\n", event{"", "x", "7"}},
		{"news", "", "", "event: news\ndata: \n\n", event{"news", "", ""}},
		{"", "a\nb", "", "data: a\ndata: b\n\n", event{"", "a\nb", ""}},
		{"", "a\r\nb\rc\n", "", "data: a\ndata: b\ndata: c\n\n", event{"", "a\nb\nc", ""}},
		{"", "\n\nb\n\n", "", "data: \ndata: \ndata: b\ndata: \n\n", event{"", "\n\nb\n", ""}},
		{"", " a: b", "", "data:  a: b\n\n", event{"", " a: b", ""}},
		{"", "\r", "", "data: \n\n", event{"", "", ""}},
	} {
		block := string(AppendBlock([]byte("before"), test.name, []byte(test.data), test.id))
		if block != "before"+test.want {
			t.Errorf("%+v: %q, want %q", test, block, test.want)
		}
		if got := read(test.want); len(got) != 1 || got[0] != test.event {
			t.Errorf("%q is read as %q, want %q", test.want, got, test.event)
		}
		if size := BlockSize(test.name, []byte(test.data), test.id); !strings.ContainsAny(test.data, "\r\n") && size != len(test.want) {
			t.Errorf("%q: size %d, want %d", test.want, size, len(test.want))
		}
	}
}

func TestCommentIsNoEvent(t *testing.T) {
	if got := read(Comment + "data: x\n\n" + Comment); !reflect.DeepEqual(got, []event{{"", "x", ""}}) {
		t.Errorf("read %q", got)
	}
}

func FuzzBlock(f *testing.F) {
	f.Add([]byte("a\r\n\r\rb"), []byte("{}"))
	f.Add([]byte("id: 7\n\n:"), []byte("\n"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		stream := AppendBlock(nil, "one", first, "1")
		n := len(stream)
		stream = append(AppendBlock(stream, "", second, ""), Comment...)
		if got := FirstBlock(stream); got != n {
			t.Fatalf("the first block of %q has %d bytes, want %d", stream, got, n)
		}
		if rest := stream[n:]; FirstBlock(rest) != len(rest)-len(Comment) {
			t.Fatalf("the second block of %q has %d bytes", stream, FirstBlock(rest))
		}
		normal := func(b []byte) string {
			s := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(b))
			return strings.TrimSuffix(s, "\n")
		}
		want := []event{{"one", normal(first), "1"}, {"", normal(second), "1"}}
		if got := read(string(stream)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q is read as %q, want %q", stream, got, want)
		}
		if !bytes.HasSuffix(stream, []byte("\n\n")) {
			t.Errorf("%q does not end with an empty line", stream)
		}
	})
}

func TestCloseSaysWhenToComeBackAndWhetherTo(t *testing.T) {
	retries := make(map[string]bool)
	for code, final := range map[int]bool{1000: true, 1001: false, 1008: true, 1012: false, 1013: false, 4000: false,
		4399: false, 4400: true, 4401: true, 4499: true, 4500: false} {
		block := string(NewClose(code, "a \"reason\"\n"))
		got := read(block)
		want := fmt.Sprintf(`{"code":%d,"reason":"a \"reason\"\n"}`, code)
		if len(got) != 1 || got[0].name != "grouphub.close" || got[0].data != want {
			t.Errorf("%q is read as %q", block, got)
		}
		if Final(code) != final || IsFinalID(got[0].id) != final {
			t.Errorf("close %d is final: %v, and its id is %q", code, Final(code), got[0].id)
		}
		_, rest, _ := strings.Cut(block, "retry: ")
		retry, _, _ := strings.Cut(rest, "\n")
		if ms, err := strconv.Atoi(retry); err != nil || ms < 1000 || ms > 10_000 {
			t.Errorf("retry is %q", retry)
		}
		retries[retry] = true
	}
	if len(retries) < 5 {
		t.Errorf("the retries are %v, want random ones", retries)
	}
}

func TestOpenHasTheToken(t *testing.T) {
	if got := read(string(AppendOpen(nil, "token"))); !reflect.DeepEqual(got, []event{{Open, "token", ""}}) {
		t.Errorf("read %q", got)
	}
}

func TestBlocksAreReadAsAnEventSourceReadsThem(t *testing.T) {
	for _, stream := range []string{
		"",
		":\n\ndata: a\n\n",
		"event: x\nid: 1\n\ndata: a\n\n",
		"event: x\ndata: a\ndata:b\nid: 1\n\ndata: c\n\nid: 2\ndata:\n\n",
		"data: a\nid: 1\n\ndata: cut\nid: 2\n",
		string(AppendOpen(nil, "token")) + string(NewClose(4401, "logout")),
	} {
		var got []event
		r, last := bufio.NewReader(strings.NewReader(stream)), ""
		for {
			b, err := ReadBlock(r, last)
			if last = b.ID; err != nil {
				break
			}
			got = append(got, event{b.Name, b.Data, b.ID})
		}
		if want := read(stream); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: read as %+v, want %+v", stream, got, want)
		}
	}
}
