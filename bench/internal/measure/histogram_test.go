package measure

import "testing"

func TestQuantilesAreWithinABucketOfTheTruth(t *testing.T) {
	var h Histogram
	for v := int64(1); v <= 1_000_000; v++ {
		h.Record(v)
	}
	for _, q := range []float64{0.001, 0.5, 0.99, 1} {
		got, want := float64(h.Quantile(q)), q*1_000_000
		if got < want || got > want*(1+1.0/histogramSteps) {
			t.Errorf("quantile %v is %v, want %v or a little more", q, got, want)
		}
	}
	if got := new(Histogram).Quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %d", got)
	}
}

func TestEachBucketEndsWhereTheNextBegins(t *testing.T) {
	for i := range 50 * histogramSteps {
		edge := upperEdge(i)
		if bucket(uint64(edge)) != i || bucket(uint64(edge)+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, which is in %d, and %d in %d",
				i, edge, bucket(uint64(edge)), edge+1, bucket(uint64(edge)+1))
		}
	}
	var h Histogram
	h.Record(-1) // clocks of two processes, read at the same instant
	if h.Quantile(1) != 0 {
		t.Error("a negative duration is not counted as none")
	}
}
