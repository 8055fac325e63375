//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

const (
	keptGroup = "kept:nobody's" // events that are counted go here
	missed    = 100             // events that a Join replays
)

// policy keeps history for the groups whose names say so.
func policy(group string) grouphub.GroupPolicy {
	if strings.HasPrefix(group, "kept:") {
		return grouphub.GroupPolicy{History: 1000}
	}
	return grouphub.GroupPolicy{}
}

// scriptBenchmark runs the script that a GroupSend to a group with history runs, as
// redis-benchmark does it.
func scriptBenchmark(ctx context.Context, port string, hub *grouphub.Hub) ([]float64, error) {
	arguments, err := watch(ctx, port, func() error { return hub.GroupSend(ctx, keptGroup, "chat.message", event(keptGroup)) })
	if err != nil {
		return nil, err
	}
	for i, argument := range arguments { // bytes that no argument of a program can have
		arguments[i] = strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return 'x'
			}
			return r
		}, argument)
	}
	const calls = 300_000
	program := exec.CommandContext(ctx, "redis-benchmark", append([]string{"-p", port, "-n", strconv.Itoa(calls), "-P", "16", "--csv"}, arguments...)...)
	out, err := program.Output()
	if err != nil {
		return nil, err
	}
	found := regexp.MustCompile(`(?m)^"EVALSHA [^\n]*?","([0-9.]+)"`).FindSubmatch(out)
	if found == nil {
		return nil, fmt.Errorf("cannot read %q", out)
	}
	rate, err := strconv.ParseFloat(string(found[1]), 64)
	used := program.ProcessState.UserTime() + program.ProcessState.SystemTime()
	return []float64{rate, used.Seconds() * 1e6 / calls}, err
}

// watch returns the EVALSHA command that the server gets while something is done.
func watch(ctx context.Context, port string, do func() error) ([]string, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", "127.0.0.1:"+port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(conn)
	lines.Scan()  // OK
	for range 2 { // for the first, the server may not know the script
		if err := do(); err != nil {
			return nil, err
		}
	}
	word := regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	for lines.Scan() {
		var arguments []string
		for _, quoted := range word.FindAllString(lines.Text(), -1) {
			argument, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, err
			}
			arguments = append(arguments, argument)
		}
		if len(arguments) > 3 && strings.EqualFold(arguments[0], "EVALSHA") && strings.Contains(arguments[3], keptGroup) {
			return arguments, nil
		}
	}
	return nil, errors.New("the script was not seen")
}

// joins measures Join on one connection. Where the group has members on the hub
// already, the layer has nothing to do; otherwise it is subscribed to first.
func joins(ctx context.Context, layer grouphub.Layer, group string, members bool, opts ...grouphub.JoinOption) ([]float64, error) {
	const count = 200
	connected := make(chan *grouphub.Conn, 1)
	hub := grouphub.New(&grouphub.Options{Layer: layer, Policy: policy, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			connected <- c
			return nil
		},
		Events: grouphub.Events{"*": grouphub.Forward()},
	}})
	defer hub.Shutdown(ctx)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: hub}
	go server.Serve(listener) // until Close
	defer server.Close()
	read := make(chan struct{}, missed) // a token for each event that a client has
	dial := func() (*grouphub.Conn, error) {
		client, _, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+listener.Addr().String(), nil)
		if err != nil {
			return nil, err
		}
		go func() { // until the hub's Shutdown
			defer client.Close()
			for err == nil {
				if _, _, err = client.ReadMessage(); err == nil {
					read <- struct{}{}
				}
			}
		}()
		return <-connected, nil
	}
	stays, err := dial()
	if err != nil {
		return nil, err
	}
	c, err := dial()
	if err != nil {
		return nil, err
	}
	group += rand.Text() // what other rounds left behind is not to be read
	groups := make([]string, count)
	for i := range groups {
		groups[i] = group
		if !members {
			groups[i] += strconv.Itoa(i)
		}
		if i == 0 || !members {
			for range missed {
				if err := hub.GroupSend(ctx, groups[i], "chat.message", event(group)); err != nil {
					return nil, err
				}
			}
		}
		if members {
			if err := stays.Join(groups[i]); err != nil {
				return nil, err
			}
		}
	}
	var took []float64
	for _, group := range groups {
		begun := time.Now()
		if err := c.Join(group, opts...); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(begun).Nanoseconds())/1e3)
		for range missed { // or the connection would become a slow one
			if len(opts) > 0 {
				<-read
			}
		}
		if err := c.Leave(group); err != nil {
			return nil, err
		}
	}
	slices.Sort(took)
	return []float64{took[len(took)/2], took[len(took)*99/100]}, nil
}
