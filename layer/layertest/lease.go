package layertest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

var leaseCases = []testCase{
	{name: "LeasesBelongToTheirTopicsAndHolders", run: testLeases},
	{name: "LeaseIsChangedFieldByField", run: testLeaseFields},
	{name: "LeaseIsOnlyChangedFromTheVersionThatIsMeant", run: testLeaseVersions},
	{name: "LeaseEndsUnlessItIsProlonged", run: testLeaseLife, slow: true},
}

// fields makes a lease's fields of names and values.
func fields(pairs ...string) map[string][]byte {
	all := make(map[string][]byte)
	for pair := range slices.Chunk(pairs, 2) {
		all[pair[0]] = []byte(pair[1])
	}
	return all
}

// replaced is a change to a lease with these fields, whatever there was.
func replaced(version uint64, pairs ...string) layer.LeaseChange {
	return layer.LeaseChange{Version: version, Life: time.Minute, Set: fields(pairs...)}
}

// prolonged is a change that prolongs a lease.
func prolonged(version uint64) layer.LeaseChange {
	return layer.LeaseChange{After: version, Version: version, Life: time.Minute}
}

// ended is a change that ends a lease.
func ended(version uint64) layer.LeaseChange { return layer.LeaseChange{Version: version} }

// expectLeases compares a topic's leases, as both ends see them.
func (f *fixture) expectLeases(topic string, want map[string]layer.Lease) {
	f.t.Helper()
	for _, l := range []layer.Layer{f.a, f.b} {
		leases, err := l.Leases(f.ctx, topic, nil)
		if err != nil {
			f.t.Fatalf("Leases: %v", err)
		}
		if !maps.EqualFunc(leases, want, sameLease) {
			f.t.Errorf("leases of %.20q: %s, want %s", topic, describe(leases), describe(want))
		}
		for _, lease := range leases { // they are the caller's
			for _, value := range lease.Fields {
				clear(value)
			}
			clear(lease.Fields)
		}
	}
}

func sameLease(a, b layer.Lease) bool {
	return a.Version == b.Version && maps.EqualFunc(a.Fields, b.Fields, bytes.Equal)
}

// describe says what leases have, of the first field at the most.
func describe(leases map[string]layer.Lease) string {
	var all strings.Builder
	for holder, lease := range leases {
		fmt.Fprintf(&all, "[%.20q: version %d, %d fields", holder, lease.Version, len(lease.Fields))
		for name, value := range lease.Fields {
			fmt.Fprintf(&all, ", one is %.20q: %.20q", name, value)
			break
		}
		all.WriteString("] ")
	}
	return all.String()
}

func (f *fixture) lease(l layer.Layer, topic, holder string, change layer.LeaseChange, want bool) {
	f.t.Helper()
	if ok, err := l.Lease(f.ctx, topic, holder, change); ok != want || err != nil {
		f.t.Errorf("Lease of %.20q to %.20q, from version %d to %d: %v, %v, want %v", topic, holder, change.After, change.Version, ok, err, want)
	}
}

func testLeases(t testing.TB, f *fixture) {
	f.expectLeases("topic", nil)
	f.lease(f.a, "topic", "one", prolonged(1), false) // there is nothing to prolong
	f.expectLeases("topic", nil)
	first := replaced(1, "field", "first")
	f.lease(f.a, "topic", "one", first, true)
	clear(first.Set["field"])
	clear(first.Set)
	f.lease(f.b, "topic", "two", replaced(7), true)
	f.lease(f.b, "other", "one", replaced(1, "field", "other"), true)
	both := map[string]layer.Lease{"one": {Version: 1, Fields: fields("field", "first")}, "two": {Version: 7}}
	f.expectLeases("topic", both)
	f.lease(f.b, "topic", "one", prolonged(1), true)
	f.expectLeases("topic", both)
	f.lease(f.a, "topic", "one", replaced(2, "another", "second"), true)
	both["one"] = layer.Lease{Version: 2, Fields: fields("another", "second")}
	f.expectLeases("topic", both)
	f.lease(f.a, "topic", "one", ended(3), true)
	f.lease(f.a, "topic", "one", prolonged(2), false)
	f.lease(f.a, "topic", "two", ended(7), true)
	f.lease(f.a, "topic", "never", ended(1), true)
	f.expectLeases("topic", nil)
	f.expectLeases("other", map[string]layer.Lease{"one": {Version: 1, Fields: fields("field", "other")}})
}

func testLeaseFields(t testing.TB, f *fixture) {
	large := string(bytes.Repeat([]byte{0, 1, 0xff}, 1<<16))
	f.lease(f.a, "topic", "one", replaced(1, "large", large, "empty", "", "gone", "x"), true)
	f.lease(f.b, "topic", "one", layer.LeaseChange{After: 1, Version: 2, Life: time.Minute,
		Set: fields("empty", "not any more", "new", "n"), Remove: []string{"gone", "never"}}, true)
	want := map[string]layer.Lease{"one": {Version: 2, Fields: fields("large", large, "empty", "not any more", "new", "n")}}
	f.expectLeases("topic", want)
	// Whoever knows the version is told no more than that.
	f.lease(f.a, "topic", "two", replaced(2, "field", "two"), true)
	for version, known := range map[uint64]bool{1: false, 2: true, 3: false} {
		leases, err := f.b.Leases(f.ctx, "topic", map[string]uint64{"one": version, "three": 2})
		one, two := leases["one"], leases["two"]
		if err != nil || len(leases) != 2 || one.Version != 2 || (len(one.Fields) == 0) != known || len(two.Fields) != 1 {
			t.Errorf("leases for one who knows version %d: %s, %v", version, describe(leases), err)
		}
	}
	// Many at once, with any names.
	change := layer.LeaseChange{After: 2, Version: 3, Life: time.Minute, Set: fields(), Remove: []string{"large", "empty", "new"}}
	for _, name := range oddNames {
		change.Set[name] = []byte(name)
	}
	for i := range 10_000 {
		change.Set[fmt.Sprint("field ", i)] = []byte{byte(i)}
	}
	f.lease(f.a, "topic", "one", change, true)
	f.lease(f.a, "topic", "two", ended(2), true)
	f.expectLeases("topic", map[string]layer.Lease{"one": {Version: 3, Fields: change.Set}})
	f.lease(f.a, "topic", "one", layer.LeaseChange{After: 3, Version: 4, Life: time.Minute, Remove: slices.Collect(maps.Keys(change.Set))}, true)
	f.expectLeases("topic", map[string]layer.Lease{"one": {Version: 4}}) // there still is one
}

func testLeaseVersions(t testing.TB, f *fixture) {
	set := func(after, version uint64, value string) layer.LeaseChange {
		return layer.LeaseChange{After: after, Version: version, Life: time.Minute, Set: fields("field", value), Remove: []string{"other"}}
	}
	f.lease(f.a, "topic", "one", set(3, 4, "nothing to change"), false)
	f.lease(f.a, "topic", "one", replaced(5, "field", "five", "other", ""), true)
	for _, late := range []layer.LeaseChange{
		set(3, 4, "overtaken"),
		set(6, 7, "too early"),
		replaced(4, "field", "overtaken"),
		prolonged(4),
		ended(4),
	} {
		f.lease(f.b, "topic", "one", late, false)
	}
	f.expectLeases("topic", map[string]layer.Lease{"one": {Version: 5, Fields: fields("field", "five", "other", "")}})
	f.lease(f.b, "topic", "one", set(5, 8, "eight"), true)
	f.lease(f.a, "topic", "one", set(5, 9, "from the same version"), false)
	f.lease(f.a, "topic", "one", replaced(8, "field", "eight again"), true)
	f.expectLeases("topic", map[string]layer.Lease{"one": {Version: 8, Fields: fields("field", "eight again")}})
}

// shortLife is of what a case waits for the end of, and has to look at before. A machine may be slow.
const shortLife = 4 * time.Second

func testLeaseLife(t testing.TB, f *fixture) {
	short := func(version uint64) layer.LeaseChange {
		change := replaced(version, "a", "1", "b", "2")
		change.Life = shortLife
		return change
	}
	f.lease(f.a, "topic", "short", short(1), true)
	f.lease(f.a, "topic", "long", short(1), true)
	f.lease(f.a, "topic", "changed", short(1), true)
	f.lease(f.b, "topic", "long", prolonged(1), true)
	// A change prolongs all of it.
	f.lease(f.b, "topic", "changed", layer.LeaseChange{After: 1, Version: 2, Life: time.Minute, Remove: []string{"b"}}, true)
	f.lease(f.a, "other", "short", short(1), true)
	long := layer.Lease{Version: 1, Fields: fields("a", "1", "b", "2")}
	changed := layer.Lease{Version: 2, Fields: fields("a", "1")}
	f.expectLeases("topic", map[string]layer.Lease{"short": long, "long": long, "changed": changed})
	gone := func(topic string, left int) bool {
		return eventually(func() bool {
			leases, err := f.b.Leases(f.ctx, topic, nil)
			if err != nil {
				t.Fatalf("Leases: %v", err)
			}
			return len(leases) == left
		})
	}
	if !gone("topic", 2) || !gone("other", 0) {
		t.Errorf("a lease of %v does not end", shortLife)
	}
	f.lease(f.a, "topic", "short", prolonged(1), false)
	f.expectLeases("topic", map[string]layer.Lease{"long": long, "changed": changed})
}
