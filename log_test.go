package grouphub

import (
	"strconv"
	"testing"
)

func TestEachKeyIsLoggedOnceAndStrangersFillNoMemory(t *testing.T) {
	var seen seenKeys
	for i := range maxSeenKeys {
		key := strconv.Itoa(i)
		if !seen.first(key) || seen.first(key) {
			t.Fatalf("key %s does not come up first once", key)
		}
	}
	if seen.first("one more") || len(seen.seen) != maxSeenKeys {
		t.Errorf("%d keys are remembered", len(seen.seen))
	}
}
