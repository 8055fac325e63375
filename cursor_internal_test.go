package grouphub

import (
	"fmt"
	"maps"
	"slices"
	"testing"
)

func entryOf(group string, at Position) cursorEntry {
	return cursorEntry{hashGroup(group), at.Number, fingerprintOf(at)}
}

func TestCursorIsReadAsItWasWritten(t *testing.T) {
	for _, test := range []struct{ groups, most int }{{0, 0}, {1, 15}, {10, 150}, {50, 800}} {
		var entries []cursorEntry
		want := make(map[groupHash]cursorEntry)
		for i := range test.groups {
			e := entryOf(fmt.Sprint("group", i), Position{Epoch: "epoch", Number: uint64(i * i * i), Nonce: fmt.Sprint(i)})
			entries = append(entries, e)
			want[e.group] = e
		}
		cursor := string(appendCursor(nil, true, entries...))
		got, ok := parseCursor(cursor)
		if !ok || !maps.Equal(got, want) || len(cursor) > test.most {
			t.Errorf("%d groups: %q, which has %d characters, is read as %v, want %v", test.groups, cursor, len(cursor), got, want)
		}
	}
}

func TestCursorEndsWhereProxiesWouldRefuseIt(t *testing.T) {
	var entries []cursorEntry
	for i := range 1000 {
		entries = append(entries, entryOf(fmt.Sprint("group", i), Position{Number: 1 << 60}))
	}
	cursor := string(appendCursor(nil, true, entries...))
	got, whole := parseCursor(cursor)
	if whole || len(cursor) > maxCursor || len(cursor) < maxCursor-50 {
		t.Fatalf("a cursor of %d characters, whole: %v", len(cursor), whole)
	}
	for i, e := range entries {
		if _, has := got[e.group]; has != (i < len(got)) {
			t.Fatalf("of the first %d groups, group %d: %v", len(got), i, has)
		}
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add(string(appendCursor(nil, true, entryOf("a", Position{Epoch: "e", Number: 1, Nonce: "n"}), entryOf("b", Position{Epoch: "e", Number: 1 << 40, Nonce: "n"}))))
	f.Add("AQ")
	f.Add("~")
	f.Add("!4401")
	f.Fuzz(func(t *testing.T, s string) {
		entries, whole := parseCursor(s)
		again, wholeAgain := parseCursor(string(appendCursor(nil, whole, slices.Collect(maps.Values(entries))...)))
		if wholeAgain != whole || !maps.Equal(again, entries) {
			t.Errorf("%q is %v, and that is %v", s, entries, again)
		}
	})
}
