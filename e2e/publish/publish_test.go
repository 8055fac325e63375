// Package publish tests that programs that are not written in Go can send events, with what
// docs/workers-and-other-languages.md shows of them.
package publish

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// block returns a block of code of the guide that has a part.
func block(t *testing.T, language, part string) string {
	guide, err := os.ReadFile("../../docs/workers-and-other-languages.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(guide), -1) {
		if strings.Contains(b[1], part) {
			return b[1]
		}
	}
	t.Fatalf("the guide has no block of %s with %s", language, part)
	return ""
}

// find returns a program's path. Where CI is true, it has to be there.
func find(t *testing.T, name string) string {
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", name)
	} else if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func TestProgramsInOtherLanguagesTellAPage(t *testing.T) {
	for name, program := range map[string]func(t *testing.T) *exec.Cmd{
		"Python": func(t *testing.T) *exec.Cmd {
			return exec.Command(find(t, "python3"), "-c", block(t, "python", "urllib")+"\nmake_thumbnail('ann', 'cat.jpg')")
		},
		"curl": func(t *testing.T) *exec.Cmd {
			find(t, "curl")
			return exec.Command(find(t, "sh"), "-ec", block(t, "sh", "PUBLISH_URL"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := program(t)
			hub := grouphub.New(&grouphub.Options{Consumer: grouphub.Consumer{
				Connect: func(c *grouphub.Conn) error { return c.Join("room:lobby") },
				Events:  grouphub.Events{"*": grouphub.Forward()},
			}})
			defer hub.Shutdown(context.Background())
			page := hubtest.Dial(t, hub, "/", hubtest.WithUser(grouphub.User{ID: "ann"}))
			server := httptest.NewServer(grouphub.PublishHandler(hub, func(r *http.Request) error {
				if r.Header.Get("Authorization") != "Bearer secret" {
					return errors.New("the secret is wrong")
				}
				return nil
			}))
			defer server.Close()

			run := func(secret string) (string, error) {
				again := *cmd
				again.Env = append(os.Environ(), "PUBLISH_URL="+server.URL, "PUBLISH_SECRET="+secret)
				output, err := again.CombinedOutput()
				return string(output), err
			}
			if output, err := run("guess"); err == nil || !strings.Contains(output, "401") {
				t.Errorf("%v with a wrong secret: %s", err, output)
			}
			if output, err := run("secret"); err != nil {
				t.Errorf("%v: %s", err, output)
			}
			if e := page.Next(); !strings.Contains(string(e.Data), map[string]string{"Python": `{"path":"cat.jpg"}`, "curl": `{"text":"deploy in 5 minutes"}`}[name]) {
				t.Errorf("got %s", e.Data)
			}
		})
	}
}
