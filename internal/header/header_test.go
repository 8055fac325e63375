package header

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestHeaderIsTheSameAfterItWasPacked(t *testing.T) {
	for name, h := range map[string]http.Header{
		"empty":      {},
		"a browser":  {"Cookie": {"session=1"}, "User-Agent": {"Mozilla/5.0"}, "Accept-Language": {"en-US,en;q=0.9"}},
		"two values": {"X-Forwarded-For": {"10.0.0.1", "10.0.0.2"}},
		"no values":  {"X-Nothing": {}, "X-Empty": {""}},
		"odd keys":   {"": {"no key"}, "lower case": {"\x00\xff\n"}},
		"large":      {"Cookie": {strings.Repeat("x", 300), strings.Repeat("y", 70_000)}},
	} {
		if got := Pack(h).Unpack(); !reflect.DeepEqual(got, h) {
			t.Errorf("%s: %v has become %v", name, h, got)
		}
	}
}

func BenchmarkPack(b *testing.B) {
	h := http.Header{"Cookie": {"session=1"}, "User-Agent": {"Mozilla/5.0"}, "Accept-Language": {"en-US,en;q=0.9"}}
	b.ReportAllocs()
	for b.Loop() {
		Pack(h)
	}
}
