package prometheus_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/prometheus"
)

func newHub(t *testing.T) *grouphub.Hub {
	hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}})
	t.Cleanup(func() { hub.Shutdown(context.Background()) })
	return hub
}

func TestCollectorShowsWhatTheHubCounts(t *testing.T) {
	hub := newHub(t)
	ann, bob := hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/", hubtest.AsStream())
	for range 3 {
		if err := hub.GroupSend(t.Context(), "g", "note", 1); err != nil {
			t.Fatal(err)
		}
		ann.ExpectEvent("note")
		bob.ExpectEvent("note")
	}
	want := `
# HELP grouphub_connections Connections that are open, event streams included.
# TYPE grouphub_connections gauge
grouphub_connections{hub="a"} 2
# HELP grouphub_events_published_total Events of this hub that the layer accepted.
# TYPE grouphub_events_published_total counter
grouphub_events_published_total{hub="a"} 3
# HELP grouphub_layer_up Whether events from other hubs arrive: 1, or 0 while the layer is away.
# TYPE grouphub_layer_up gauge
grouphub_layer_up{hub="a"} 1
# HELP grouphub_streams Connections that are open event streams.
# TYPE grouphub_streams gauge
grouphub_streams{hub="a"} 1
`
	collector := prometheus.NewCollector(hub, client.Labels{"hub": "a"})
	if err := testutil.CollectAndCompare(collector, strings.NewReader(want),
		"grouphub_connections", "grouphub_streams", "grouphub_events_published_total", "grouphub_layer_up"); err != nil {
		t.Error(err)
	}
}

func TestCollectorIsCleanAndComplete(t *testing.T) {
	hub := newHub(t)
	collector := prometheus.NewCollector(hub, nil)
	problems, err := testutil.CollectAndLint(collector)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if n, fields := testutil.CollectAndCount(collector), reflect.TypeFor[grouphub.Stats]().NumField(); n != fields {
		t.Errorf("%d metrics of %d stats", n, fields)
	}
}

func TestCollectorsOfTwoHubsNeedLabels(t *testing.T) {
	registry := client.NewRegistry()
	for _, name := range []string{"a", "b"} {
		if err := registry.Register(prometheus.NewCollector(newHub(t), client.Labels{"hub": name})); err != nil {
			t.Error(err)
		}
	}
	if err := registry.Register(prometheus.NewCollector(newHub(t), client.Labels{"hub": "b"})); err == nil {
		t.Error("two collectors with the same labels were registered")
	}
}

// TestDashboardAndAlertsNameMetricsThatThereAre reads what users copy.
func TestDashboardAndAlertsNameMetricsThatThereAre(t *testing.T) {
	known := make(map[string]bool)
	registry := client.NewPedanticRegistry()
	registry.MustRegister(prometheus.NewCollector(newHub(t), nil))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		known[family.GetName()] = true
	}
	for _, file := range []string{"dashboard.json", "alerts.yml", "README.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`grouphub_[a-z_]+`).FindAllString(string(text), -1)
		if len(names) < 5 {
			t.Errorf("%s names %d metrics", file, len(names))
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s names %s, which there is not", file, name)
			}
		}
	}
	var dashboard struct{ Panels []any }
	text, _ := os.ReadFile("dashboard.json")
	if err := json.Unmarshal(text, &dashboard); err != nil || len(dashboard.Panels) == 0 {
		t.Errorf("dashboard.json: %d panels, %v", len(dashboard.Panels), err)
	}
}

func ExampleNewCollector() {
	hub := grouphub.New(nil)
	defer hub.Shutdown(context.Background())
	registry := client.NewRegistry()
	registry.MustRegister(prometheus.NewCollector(hub, client.Labels{"hub": "chat"}))

	families, err := registry.Gather()
	fmt.Println(len(families) > 10, err)
	// Output: true <nil>
}

func TestTheBlocksOfTheReadmeAreCompiled(t *testing.T) {
	registry, hub := client.NewRegistry(), newHub(t)
	registry.MustRegister(prometheus.NewCollector(hub, client.Labels{"hub": "chat"}))

	files := make(map[string]string)
	for _, name := range []string{"README.md", "collector_test.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(text)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)\n```").FindAllStringSubmatch(files["README.md"], -1)
	for _, block := range blocks {
		if !strings.Contains(files["collector_test.go"], block[1]) {
			t.Errorf("not compiled:\n%s", block[1])
		}
	}
	if len(blocks) == 0 {
		t.Error("no block of Go")
	}
}
