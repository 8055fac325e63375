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
	for _, pattern := range []string{"example*_test.go", "examples/hello/*.go", "e2e/frameworks/*_test.go", "e2e/browsers/library_test.go"} {
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

// guides are the documents that users read: the README and docs/.
func guides(t *testing.T) []string {
	files, err := filepath.Glob("docs/*.md")
	if err != nil || len(files) < 10 {
		t.Fatalf("docs/*.md: %v, %v", files, err)
	}
	return append(files, "README.md")
}

// A block that begins with "```go before" shows what somebody has who comes from another
// package. It need not compile.
func TestEveryGoBlockOfTheDocumentsIsCompiledAndRun(t *testing.T) {
	code := compiled(t)
	found := 0
	for _, guide := range guides(t) {
		for _, block := range regexp.MustCompile("(?s)```go([^\n]*)\n(.*?)```").FindAllStringSubmatch(read(t, guide), -1) {
			found++
			switch block[1] {
			case " before":
			case "":
				if !strings.Contains(code, oneSpace(block[2])) {
					t.Errorf("%s has in no example:\n%s", guide, block[2])
				}
			default:
				t.Errorf("%s has a block of go%s", guide, block[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("%d blocks of Go", found)
	}
}

func TestTheTableForChannelsIsCompiledAndRun(t *testing.T) {
	code := compiled(t)
	_, table, _ := strings.Cut(read(t, "docs/from-channels.md"), "| Channels | grouphub |")
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
		for _, link := range regexp.MustCompile(`\]\(([^):\s]+)\)`).FindAllStringSubmatch(prose(read(t, document)), -1) {
			file, anchor, _ := strings.Cut(link[1], "#")
			target := document
			if file != "" {
				target = filepath.Join(filepath.Dir(document), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", document, err)
			} else if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: %s has no heading for #%s", document, target, anchor)
			}
		}
	}
}

// What the README shows in Python is what e2e/publish runs from the guide.
func TestTheReadmeShowsThePythonThatIsRun(t *testing.T) {
	python := regexp.MustCompile("(?s)```python\n.*?```")
	shown := python.FindString(read(t, "README.md"))
	if shown == "" || shown != python.FindString(read(t, "docs/workers-and-other-languages.md")) {
		t.Errorf("the README shows %q", shown)
	}
}

// Whoever looks for a guide finds it from the README.
func TestTheReadmeLinksToEveryGuide(t *testing.T) {
	readme := read(t, "README.md")
	for _, guide := range guides(t) {
		if guide != "README.md" && !strings.Contains(readme, "]("+filepath.ToSlash(guide)) {
			t.Errorf("the README does not link to %s", guide)
		}
	}
}

var (
	fenced = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	inline = regexp.MustCompile("`[^`\n]*`")
)

// prose returns a document without its code.
func prose(document string) string {
	return inline.ReplaceAllString(fenced.ReplaceAllString(document, ""), "")
}

// anchors returns what GitHub calls the headings of a document.
func anchors(document string) []string {
	var all []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(fenced.ReplaceAllString(document, ""), -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}
