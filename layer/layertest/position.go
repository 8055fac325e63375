package layertest

import (
	"fmt"
	"strings"
	"testing"
)

var positionCases = []testCase{
	{name: "PositionsFitIntoAnID", run: testPositions},
	{name: "AnEpochBeginsBeforeTheFirstPublication", run: testStart},
	{name: "NoTwoStoresHaveAnEpochInCommon", run: testEpochs},
}

// wordBytes are the bytes that an epoch and a nonce may have.
const wordBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// testPositions checks what a hub needs to make an id of a position, and that no two
// positions have the same nonce.
func testPositions(t testing.TB, f *fixture) {
	h := f.attach(f.a, "topic")
	start := f.history(f.a, "topic", 0).Start
	checkWord(t, "nonce", start, 0)
	nonces := map[string]uint64{start: 0}
	for i := range 50 {
		f.publishKept(f.b, "topic", fmt.Sprint(i), plenty)
	}
	h.await("topic", 50)
	for _, p := range h.publications("topic") {
		checkWord(t, "epoch", p.At.Epoch, p.At.Number)
		checkWord(t, "nonce", p.At.Nonce, p.At.Number)
		if other, ok := nonces[p.At.Nonce]; ok {
			t.Fatalf("numbers %d and %d have the same nonce, %q", other, p.At.Number, p.At.Nonce)
		}
		nonces[p.At.Nonce] = p.At.Number
	}
	for _, after := range []uint64{0, 49, 50} {
		if end := f.history(f.b, "topic", after); nonces[end.Nonce] != 50 {
			t.Errorf("History after %d has the nonce %q, want that of its last number, %d", after, end.Nonce, end.Last)
		}
	}
}

func checkWord(t testing.TB, name, word string, number uint64) {
	t.Helper()
	if word == "" || len(word) > 64 || strings.Trim(word, wordBytes) != "" {
		t.Fatalf("the %s of number %d is %q, which is not 1 to 64 letters, digits, '-' and '_'", name, number, word)
	}
}

func testStart(t testing.TB, f *fixture) {
	before := f.history(f.a, "topic", 0)
	checkWord(t, "epoch", before.Epoch, 0)
	checkWord(t, "nonce", before.Start, 0)
	if before.Nonce != before.Start || before.Last != 0 {
		t.Errorf("History of a topic that nothing was published to: %+v", before)
	}
	if again := f.history(f.b, "topic", 0); again.Epoch != before.Epoch || again.Start != before.Start {
		t.Errorf("History is %+v, then %+v", before, again)
	}
	if other := f.history(f.b, "other", 0); other.Epoch == before.Epoch || other.Start == before.Start {
		t.Errorf("History of another topic is %+v as well", other)
	}
	f.publishKept(f.b, "topic", "one", plenty)
	if h := f.history(f.a, "topic", 0); h.Epoch != before.Epoch || h.Start != before.Start || h.Last != 1 || len(h.Kept) != 1 {
		t.Errorf("History is %+v, and after the first publication %+v", before, h)
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
