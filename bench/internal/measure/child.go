//go:build linux

package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// A Child is a process of the driver's own program. It ends with the thread that started it, so the
// driver locks its goroutine to one.
type Child struct{ command *exec.Cmd }

// Command returns a child that is not started yet.
func Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, self, args...)
	c.SysProcAttr = EndWithParent()
	c.Stderr = os.Stderr
	return c, nil
}

// StartServer starts a child and returns once that has printed, as JSON, where it listens. The
// child ends when its standard input does.
func StartServer(ctx context.Context, at any, args ...string) (*Child, error) {
	c, err := Command(ctx, args...)
	if err != nil {
		return nil, err
	}
	if _, err := c.StdinPipe(); err != nil { // its end is the child's
		return nil, err
	}
	output, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	child := &Child{c}
	if err := json.NewDecoder(output).Decode(at); err != nil {
		child.Kill()
		return nil, fmt.Errorf("server %s did not start: %w", strings.Join(args, " "), err)
	}
	return child, nil
}

// Kill ends the child as a crash would, and returns when it has ended.
func (c *Child) Kill() {
	c.command.Process.Kill()
	c.command.Wait()
}

// PID is the number of the process.
func (c *Child) PID() int { return c.command.Process.Pid }
