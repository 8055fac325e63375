package grouphub

import (
	"bufio"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func TestHeaderIsTheSameAfterItWasPacked(t *testing.T) {
	for name, h := range map[string]http.Header{
		"empty":      {},
		"a browser":  {"Cookie": {"session=1"}, "User-Agent": {"Mozilla/5.0"}, "Accept-Language": {"en-US,en;q=0.9"}},
		"two values": {"X-Forwarded-For": {"10.0.0.1", "10.0.0.2"}, "Origin": {"https://a", "https://b"}},
		"no values":  {"X-Nothing": {}, "X-Empty": {""}, "Pragma": {}},
		"odd keys":   {"": {"no key"}, "lower case": {"\x00\xff\n"}, "user-agent": {"another key"}},
		"large":      {"Cookie": {strings.Repeat("x", 300), strings.Repeat("y", 70_000)}, "User-Agent": {strings.Repeat("z", 600)}},
	} {
		r := &http.Request{Header: h, URL: new(url.URL)}
		p := packRequest(r)
		if r.Header != nil {
			t.Errorf("%s: the request still has %v", name, r.Header)
		}
		p.restore(r)
		if !reflect.DeepEqual(r.Header, h) {
			t.Errorf("%s: %v has become %v", name, h, r.Header)
		}
		r.Header = http.Header{"Changed": {"since"}}
		if p.restore(r); len(r.Header) != 1 {
			t.Errorf("%s: restored twice: %v", name, r.Header)
		}
	}
}

func TestURLIsTheSameAfterItWasPacked(t *testing.T) {
	for _, uri := range []string{
		"/", "/ws", "/ws?", "/ws??", "/ws?a=1&b=%20", "/ws?a?b", "/a%2Fb/c", "/a%20b", "/%C3%A4", "/ä", "/a;b=c", "//host/path", "///", "/:80",
		"/a+b?c+d", "/a[b]", "/a%5Bb", "/a!b'(c)*", "/%41", "/a#b", "/a%23b", "*", "http://other.host/path?query", "http://user:password@host/", "/a\"b", "/|",
	} {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + uri + " HTTP/1.1\r\nHost: h\r\n\r\n")))
		if err != nil {
			continue // no server would have to keep it
		}
		want := *r.URL
		p := packRequest(r)
		gone := r.URL == nil
		p.restore(r)
		if !reflect.DeepEqual(*r.URL, want) {
			t.Errorf("%s: packed: %v: %#v has become %#v", uri, gone, want, *r.URL)
		}
		if strings.HasPrefix(uri, "/ws") && !gone {
			t.Errorf("%s: was not packed", uri)
		}
		// What middleware has made of it stays.
		for _, change := range []func(*url.URL){
			func(u *url.URL) { u.Path = "/stripped" },
			func(u *url.URL) { u.RawPath = "/%2F" },
			func(u *url.URL) { u.RawQuery += "&more" },
			func(u *url.URL) { u.ForceQuery = !u.ForceQuery },
			func(u *url.URL) { u.Host = "host" },
			func(u *url.URL) { u.User = url.User("user") },
			func(u *url.URL) { u.Fragment = "fragment" },
		} {
			changed := want
			change(&changed)
			r.URL = new(url.URL)
			*r.URL = changed
			p := packRequest(r)
			p.restore(r)
			if !reflect.DeepEqual(*r.URL, changed) {
				t.Errorf("%s: changed to %#v, it has become %#v", uri, changed, *r.URL)
			}
		}
	}
}

func TestWhatBrowsersSendAlikeIsKeptOnce(t *testing.T) {
	browser := func(cookie string) packedRequest {
		return packRequest(&http.Request{URL: new(url.URL), Header: http.Header{
			"Cookie": {cookie}, "User-Agent": {"Mozilla/5.0"}, "Accept-Language": {"en-US,en;q=0.9"}, "Upgrade": {"websocket"}}})
	}
	one, other := browser("one"), browser("other")
	if one.alike != other.alike || strings.Contains(one.own, "Mozilla") || !strings.Contains(one.own, "one") {
		t.Errorf("kept %q and %q; %q of them together", one.own, other.own, one.alike.Value())
	}
}

func BenchmarkPack(b *testing.B) {
	h := http.Header{"Cookie": {"session=1"}, "User-Agent": {"Mozilla/5.0"}, "Accept-Language": {"en-US,en;q=0.9"}}
	b.ReportAllocs()
	for b.Loop() {
		packRequest(&http.Request{Header: h, URL: new(url.URL)})
	}
}
