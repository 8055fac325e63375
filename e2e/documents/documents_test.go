// Package documents checks the blocks of the documents that are not Go: the root's tests compile
// those, and the tests of proxies, publish and browsers run some of these.
package documents

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"golang.org/x/net/html"
)

// block matches a fenced block: what it says that it is, and its text.
var block = regexp.MustCompile("(?ms)^[ \t]*```([a-z]+[^\n]*)\n(.*?)^[ \t]*```")

// checks are what is done with a block of each kind. What is nil is looked at elsewhere.
var checks = map[string]func(t *testing.T, text string){
	"go":         nil, // compiled by the root's tests, and those of postgres and prometheus
	"go before":  nil, // what somebody has who comes from another package
	"js before":  nil,
	"sql":        nil, // run by the tests of postgres
	"nginx":      nil, // run by e2e/proxies, like the next two
	"caddy":      nil,
	"haproxy":    nil,
	"js":         checkJavaScript,
	"html":       checkHTML,
	"json":       checkJSON,
	"python":     checkPython,
	"sh":         checkShell,
	"yaml":       checkYAML,
	"typescript": checkJavaScript,
}

func TestEveryBlockOfTheDocumentsIsWhatItSays(t *testing.T) {
	found := 0
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../*/README.md", "../../examples/*/README.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for i, b := range block.FindAllStringSubmatch(string(text), -1) {
				found++
				check, known := checks[b[1]]
				t.Run(fmt.Sprintf("%s, block %d, %s", filepath.Base(file), i+1, b[1]), func(t *testing.T) {
					if !known {
						t.Fatalf("nobody knows how to check a block of %s", b[1])
					}
					if check != nil {
						check(t, b[2])
					}
				})
			}
		}
	}
	if found < 60 {
		t.Errorf("%d blocks", found)
	}
}

// run has a program read a file with the text, and fails the test if the program does not like it.
func run(t *testing.T, text, name string, command ...string) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(command[0], append(command[1:], file)...).CombinedOutput(); err != nil {
		t.Errorf("%v: %s\n%s", err, out, text)
	}
}

func checkJavaScript(t *testing.T, text string) { run(t, text, "block.mjs", "node", "--check") }

func checkShell(t *testing.T, text string) { run(t, text, "block.sh", "bash", "-n") }

func checkPython(t *testing.T, text string) {
	run(t, text, "block.py", "python3", "-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())")
}

func checkJSON(t *testing.T, text string) {
	if !json.Valid([]byte(text)) {
		t.Errorf("no JSON:\n%s", text)
	}
}

func checkYAML(t *testing.T, text string) {
	decoder := yaml.NewDecoder(strings.NewReader(text), yaml.Strict())
	documents := 0
	for {
		var document map[string]any
		err := decoder.Decode(&document)
		if err != nil {
			if documents == 0 || err.Error() != "EOF" {
				t.Errorf("after %d documents: %v", documents, err)
			}
			return
		}
		documents++
		if document["kind"] != nil && (document["apiVersion"] == nil || document["metadata"] == nil || document["spec"] == nil) {
			t.Errorf("%v has no apiVersion, metadata or spec", document["kind"])
		}
	}
}

// checkHTML checks that each element that has to be closed is, and in its order, and the scripts.
func checkHTML(t *testing.T, text string) {
	var open []string
	tokens := html.NewTokenizer(strings.NewReader(text))
	for {
		switch tokens.Next() {
		case html.ErrorToken:
			if len(open) > 0 {
				t.Errorf("%v is not closed:\n%s", open, text)
			}
			return
		case html.StartTagToken:
			name, _ := tokens.TagName()
			if !isVoid[string(name)] {
				open = append(open, string(name))
			}
		case html.EndTagToken:
			name, _ := tokens.TagName()
			if len(open) == 0 || open[len(open)-1] != string(name) {
				t.Fatalf("</%s> while %v are open:\n%s", name, open, text)
			}
			open = open[:len(open)-1]
		case html.TextToken:
			if len(open) > 0 && open[len(open)-1] == "script" {
				checkJavaScript(t, string(tokens.Text()))
			}
		}
	}
}

// isVoid are elements that have no end.
var isVoid = map[string]bool{"br": true, "input": true, "link": true, "meta": true, "img": true, "hr": true}
