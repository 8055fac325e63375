package layertest

import (
	"fmt"
	"strings"
	"testing"
)

var positionCases = []testCase{
	{name: "PositionsFitIntoAnID", run: testPositions},
	{name: "NoTwoStoresHaveAnEpochInCommon", run: testEpochs},
}

// wordBytes are the bytes that an epoch and a nonce may have.
const wordBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// testPositions checks what a hub needs to make an id of a position, and that a layer that
// gives publications a nonce never gives the same to two.
func testPositions(t testing.TB, f *fixture) {
	h := f.attach(f.a, "topic")
	for i := range 50 {
		f.publishKept(f.b, "topic", fmt.Sprint(i), plenty)
	}
	h.await("topic", 50)
	nonces := make(map[string]uint64)
	for _, p := range h.publications("topic") {
		for name, word := range map[string]string{"epoch": p.At.Epoch, "nonce": p.At.Nonce} {
			if len(word) > 64 || strings.Trim(word, wordBytes) != "" {
				t.Fatalf("the %s of %+v is not at most 64 letters, digits, '-' and '_'", name, p.At)
			}
		}
		if other, ok := nonces[p.At.Nonce]; ok && p.At.Nonce != "" {
			t.Fatalf("numbers %d and %d have the same nonce, %q", other, p.At.Number, p.At.Nonce)
		}
		nonces[p.At.Nonce] = p.At.Number
	}
}

// testEpochs compares positions of two stores. If one could be another's, a hub would take
// a position from before its server was replaced for one of the present.
func testEpochs(t testing.TB, f *fixture) {
	f.publishKept(f.a, "topic", "x", plenty)
	other := f.newPair()
	defer f.closePair(other)
	f.publishKept(other.a, "topic", "x", plenty)
	first, second := f.history(f.a, "topic", 0), f.history(other.b, "topic", 0)
	if first.Epoch == second.Epoch {
		t.Errorf("two stores have epoch %q in common", first.Epoch)
	}
}
