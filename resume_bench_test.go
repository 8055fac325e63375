package grouphub_test

import (
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

// BenchmarkEventsBesideStrangersThatResume has 2,000 clients that resume a history of 1 MB at the
// same time, and do not read, and reports how long an event takes meanwhile from GroupSend to a
// member that reads, and how long a GroupSend takes.
func BenchmarkEventsBesideStrangersThatResume(b *testing.B) {
	for name, layer := range map[string]func() grouphub.Layer{
		"memory": func() grouphub.Layer { return grouphub.NewMemoryLayer() },
		"redis":  func() grouphub.Layer { return redisLayer(b, redistest.Start(b).URL(), nil) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				besideStrangers(b, layer(), 2000)
			}
		})
	}
}

func besideStrangers(b *testing.B, layer grouphub.Layer, strangers int) {
	hub := newHub(b, followed(layer))
	server := httptest.NewServer(hub)
	defer server.Close()
	s := "ws" + strings.TrimPrefix(server.URL, "http")
	dial := func(query string) *websocket.Conn {
		conn, _, err := websocket.DefaultDialer.Dial(s+query, nil)
		if err != nil {
			b.Fatal(err)
		}
		return conn
	}
	member := dial("/?resume=")
	defer member.Close()
	var begin grouphub.Event
	if err := member.ReadJSON(&begin); err != nil {
		b.Fatal(err)
	}
	for range 1000 {
		send(b, hub, "g", "n", strings.Repeat("x", 1000))
		if _, _, err := member.ReadMessage(); err != nil {
			b.Fatal(err)
		}
	}
	var worst, worstSend time.Duration
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			begun := time.Now()
			if err := hub.GroupSend(background, "g", "n", 1); err != nil {
				b.Error(err)
				return
			}
			worstSend = max(worstSend, time.Since(begun))
			if _, _, err := member.ReadMessage(); err != nil {
				b.Error(err)
				return
			}
			worst = max(worst, time.Since(begun))
		}
	}()
	var dialing sync.WaitGroup
	conns := make(chan net.Conn, strangers)
	for range 8 {
		dialing.Go(func() {
			for range strangers / 8 {
				conns <- dial("/" + resumeQuery("g", begin.ID)).NetConn()
			}
		})
	}
	dialing.Wait()
	time.Sleep(100 * time.Millisecond)
	close(stop)
	<-stopped
	close(conns)
	for conn := range conns {
		conn.Close()
	}
	b.ReportMetric(float64(worst.Microseconds())/1000, "ms-worst-event")
	b.ReportMetric(float64(worstSend.Microseconds())/1000, "ms-worst-send")
}
