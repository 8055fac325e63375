// Package npm has the packages of npm that the tests' pages are made of, or are checked with.
package npm

import (
	"embed"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/seed-29c60982/grouphub/e2e/engine"
)

//go:embed package.json package-lock.json
var files embed.FS

// Install returns a folder that has the packages, in the versions of package-lock.json.
func Install(t *testing.T) (modules string) {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(folder, files); err != nil {
		t.Fatal(err)
	}
	install := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	install.Dir = folder
	if output, err := install.CombinedOutput(); err != nil {
		engine.Missing(t, "npm ci: "+err.Error()+"\n"+string(output))
	}
	return filepath.Join(folder, "node_modules")
}
