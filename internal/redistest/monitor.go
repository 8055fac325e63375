package redistest

import (
	"bufio"
	"fmt"
	"net"
	"regexp"
	"strings"
)

// A Monitor sees the commands that clients send to a server.
type Monitor struct {
	s     *Server
	lines *bufio.Scanner
	marks int
}

// Monitor begins to watch.
func (s *Server) Monitor() *Monitor {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.Address())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	fmt.Fprint(conn, "MONITOR\r\n")
	m := &Monitor{s: s, lines: bufio.NewScanner(conn)}
	m.lines.Buffer(nil, 64<<20)
	m.Commands("")
	return m
}

// Commands returns the names of the commands since the last call that concern a key, a channel
// or whatever else their arguments name: not those that scripts ran, and not heartbeats.
func (m *Monitor) Commands(about string) (names []string) {
	m.s.t.Helper()
	m.marks++
	mark := fmt.Sprint("mark", m.marks)
	m.s.CLI("ECHO", mark)
	for m.lines.Scan() {
		line := monitored.FindStringSubmatch(m.lines.Text())
		switch {
		case line == nil, line[1] == "lua", strings.Contains(line[3], `"grouphub:beat:`):
		case line[2] == "ECHO" && strings.Contains(line[3], mark):
			return names
		case !strings.Contains(line[3], about):
		default:
			names = append(names, line[2])
		}
	}
	m.s.t.Fatalf("MONITOR ended: %v", m.lines.Err())
	return nil
}

// monitored matches a line of MONITOR: time, database and client, then the command and its
// arguments, each in quotes.
var monitored = regexp.MustCompile(`^\+[0-9.]+ \[\d+ ([^\]]*)\] "([^"]*)" ?(.*)`)
