package redis

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

func FuzzOpenTakesAnything(f *testing.F) {
	plain, err := newSealer(nil)
	if err != nil {
		f.Fatal(err)
	}
	keyed, err := newSealer([]string{"new", "old"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("name", "")
	f.Add("name", "\x01payload")
	f.Add("name", "\x02short")
	f.Add("name", string(keyed.seal("name", []byte("payload"))))
	f.Fuzz(func(t *testing.T, name, sealed string) {
		for _, s := range []*sealer{plain, keyed} {
			s.open(name, sealed)
			payload, err := s.open(name, string(s.seal(name, []byte(sealed))))
			if err != nil || !bytes.Equal(payload, []byte(sealed)) {
				t.Errorf("%q came back as %q, %v", sealed, payload, err)
			}
			if _, err := keyed.open(name+"x", string(keyed.seal(name, []byte(sealed)))); err == nil {
				t.Error("opened under another name")
			}
		}
	})
}

func TestKeysOfDifferentNamesDiffer(t *testing.T) {
	l := &Layer{prefix: "p"}
	seen := make(map[string]string)
	for _, name := range []string{"a", "}", "{", "%", "%7D", "%7d", "a}", "a}b", "a%7Db", "{}", "%25"} {
		key := l.key("topic", name)
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have the key %q", name, other, key)
		}
		seen[key] = name
		// Redis hashes what is between the first brace and the first that closes.
		if i := bytes.IndexByte([]byte(key), '}'); i != len(key)-1 {
			t.Errorf("%q: the hash tag of %q ends at %d", name, key, i)
		}
	}
}

func TestSlotsAreReadFromClusterNodes(t *testing.T) {
	answer := "07c3 127.0.0.1:30004@31004,host slave e7d1 0 1426238317239 4 connected\n" +
		"67ed 127.0.0.1:30002@31002 master - 0 1426238316232 2 connected 100-200\n" +
		"e7d1 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-2 7 9-10 [11->-67ed] [12-<-67ed] 16383\n"
	if got, want := ownSlots(answer), []uint16{0, 1, 2, 7, 9, 10, 16383}; !slices.Equal(got, want) {
		t.Errorf("slots %v, want %v", got, want)
	}
	for _, answer := range []string{"", "garbage", "a b myself,slave - 0 0 1 connected 5", "x y myself,master - 0 0 1 connected 99999"} {
		if got := ownSlots(answer); len(got) != 0 || got == nil {
			t.Errorf("%s: %v, want none", fmt.Sprintf("%.20q", answer), got)
		}
	}
}
