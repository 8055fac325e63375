package grouphub_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// compiled is the code that go test compiles and the README quotes, with all white
// space as one space.
func compiled(t *testing.T) string {
	var all strings.Builder
	for _, pattern := range []string{"example*_test.go", "examples/hello/*.go", "e2e/frameworks/routers_test.go", "e2e/browsers/library_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			all.WriteString(read(t, file))
		}
	}
	return oneSpace(all.String())
}

func read(t *testing.T, file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func oneSpace(s string) string { return strings.Join(strings.Fields(s), " ") }

func TestEveryGoBlockOfTheReadmeIsCompiledAndRun(t *testing.T) {
	code := compiled(t)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) < 5 {
		t.Errorf("%d blocks of Go", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(code, oneSpace(block[1])) {
			t.Errorf("in no example:\n%s", block[1])
		}
	}
}

func TestTheReadmesTableForChannelsIsCompiledAndRun(t *testing.T) {
	code := compiled(t)
	_, table, _ := strings.Cut(read(t, "README.md"), "| Channels | grouphub |")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(strings.TrimSpace(table), "\n")[1:]
	if len(rows) < 20 {
		t.Errorf("%d rows", len(rows))
	}
	for _, row := range rows {
		ours := strings.Split(row, " | ")[1]
		for _, span := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(ours, -1) {
			if !strings.Contains(code, oneSpace(span[1])) {
				t.Errorf("in no example: %s", span[1])
			}
		}
	}
}

func TestTheReadmeHasAReasonForEveryDependency(t *testing.T) {
	_, table, _ := strings.Cut(read(t, "README.md"), "## Dependencies")
	direct := regexp.MustCompile(`(?m)^\s*(?:require )?(\S+\.\S+/\S+) v\S+$`).FindAllStringSubmatch(read(t, "go.mod"), -1)
	for _, module := range direct {
		if !strings.Contains(table, "| `"+module[1]+"` |") {
			t.Errorf("the README does not say why %s is needed", module[1])
		}
	}
	if got := strings.Count(table, "\n| `"); got != len(direct) {
		t.Errorf("the README has %d dependencies, go.mod %d", got, len(direct))
	}
}

func TestWhatTheDocumentsLinkToIsThere(t *testing.T) {
	var documents []string
	for _, pattern := range []string{"*.md", "*/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, files...)
	}
	if !slices.Contains(documents, "README.md") {
		t.Errorf("no README.md among %v", documents)
	}
	for _, document := range documents {
		for _, link := range regexp.MustCompile(`\]\(([^):#]+)[^):]*\)`).FindAllStringSubmatch(read(t, document), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(document), link[1])); err != nil {
				t.Errorf("%s: %v", document, err)
			}
		}
	}
}
