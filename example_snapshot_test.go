package grouphub_test

import (
	"context"
	"fmt"
	"html/template"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"

	"github.com/seed-29c60982/grouphub"
)

// A task is what the example's pages show.
type task struct {
	Name string `json:"name"`
	Done int    `json:"done"` // percent
}

// taskStore is the example's database.
type taskStore struct {
	mu    sync.Mutex
	tasks map[string][]task
}

func (s *taskStore) Load(_ context.Context, list string) ([]task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]task{}, s.tasks[list]...), nil
}

func (s *taskStore) Set(_ context.Context, list string, t task) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks[list] = append(s.tasks[list], t)
	return nil
}

// tasksPage hands its position to client.js, as the option positions.
var tasksPage = template.Must(template.New("").Parse(
	`{{range .Tasks}}{{.Name}} {{end}}<body data-group="{{.Group}}" data-position="{{.Position}}">`))

// A page loads the state, and then listens to what changes. Both are one call.
func ExampleHub_Position() {
	tasks := &taskStore{tasks: map[string][]task{"home": {{"paint", 20}}}}
	mux := http.NewServeMux()

	hub := grouphub.New(&grouphub.Options{
		Policy: func(group string) grouphub.GroupPolicy {
			list, ok := strings.CutPrefix(group, "tasks:")
			if !ok {
				return grouphub.GroupPolicy{}
			}
			return grouphub.GroupPolicy{
				History: 100,
				Snapshot: func(ctx context.Context, _ string) (any, error) {
					return tasks.Load(ctx, list)
				},
			}
		},
	})
	mux.Handle("/ws/tasks/{list}", hub.Handler(grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			return c.Join("tasks:" + c.PathValue("list"))
		},
		Events: grouphub.Events{"snapshot": grouphub.Forward(), "task.changed": grouphub.Forward()},
	}))

	change := func(ctx context.Context, list string, t task) error {
		if err := tasks.Set(ctx, list, t); err != nil { // first the data,
			return err
		}
		return hub.GroupSend(ctx, "tasks:"+list, "task.changed", t) // then the event
	}

	mux.HandleFunc("GET /tasks/{list}", func(w http.ResponseWriter, r *http.Request) {
		group := "tasks:" + r.PathValue("list")
		position, err := hub.Position(r.Context(), group) // before the query
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		list, err := tasks.Load(r.Context(), r.PathValue("list"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		tasksPage.Execute(w, map[string]any{"Tasks": list, "Group": group, "Position": position})
	})

	defer hub.Shutdown(context.Background())
	loads := dial(mux, "/ws/tasks/home", nil)
	loads.printWithoutID()
	loads.close()

	server := httptest.NewServer(mux)
	defer server.Close()
	page, err := http.Get(server.URL + "/tasks/home")
	if err != nil {
		log.Fatal(err)
	}
	text, _ := io.ReadAll(page.Body)
	page.Body.Close()
	_, position, _ := strings.Cut(strings.TrimSuffix(string(text), `">`), `data-position="`)

	// What changes before the page connects is not missed.
	if err := change(context.Background(), "home", task{"paint", 60}); err != nil {
		fmt.Println(err)
	}
	listens := dial(mux, "/ws/tasks/home?resume="+url.QueryEscape("tasks:home@"+position), nil)
	listens.printWithoutID()
	listens.close()

	// Output:
	// {"type":"snapshot","group":"tasks:home","data":[{"name":"paint","done":20}]}
	// {"type":"task.changed","group":"tasks:home","data":{"name":"paint","done":60}}
}
