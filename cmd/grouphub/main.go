// Command grouphub looks into the hubs that share a Redis, and sends to them, for people and
// for scripts. It is one more hub of theirs, without connections.
//
//	grouphub [-redis URL] [-prefix P] [-keys K,K] COMMAND
//
// The URL is that of NewRedisLayer; without -redis it is $REDIS_URL. Prefix and keys are those
// of RedisOptions. The commands are
//
//	send CHANNEL TYPE [JSON]               to a named channel, or to one connection
//	receive [-n 1] [-timeout 5s] CHANNEL   prints each event as a line of JSON
//	publish [-once KEY] GROUP TYPE [JSON]  to a group; JSON "-" is read from standard input
//	watch GROUP...                         prints events as they come, until it is interrupted
//	members GROUP                          one line of JSON each
//	close GROUP CODE REASON                closes the connections of a group's members
//	ping                                   says whether events get out and come in
//
// A group whose history is in Redis gets events that are numbered and kept; Redis is where the
// command finds out, since it does not know the application's Policy. The exit status is 0, or
// 1 for what has failed and a receive that got nothing in time, or 2 for wrong arguments. What
// is wrong is one line on standard error, where watch also says that it has joined.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/redis"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.run(ctx, os.Args[1:]))
}

// A program is one run of the command.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	hub            *grouphub.Hub
	policies       *policies
}

// A usageError is what is wrong with the arguments.
type usageError struct{ message string }

func (e usageError) Error() string { return e.message }

// A command does its work with the hub, when its arguments have been checked.
type command func(ctx context.Context) error

// run runs the command that the arguments name, and returns the exit status.
func (p *program) run(ctx context.Context, args []string) int {
	err := p.runCommand(ctx, args)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(p.stderr, "grouphub: %v\n", oneLine(usage.message))
		return 2
	}
	fmt.Fprintln(p.stderr, "grouphub: "+strings.TrimPrefix(oneLine(err.Error()), "grouphub: "))
	return 1
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (p *program) runCommand(ctx context.Context, args []string) error {
	flags := p.newFlags("grouphub [-redis URL] [-prefix P] [-keys K,K] send|receive|publish|watch|members|close|ping …")
	url := flags.String("redis", os.Getenv("REDIS_URL"), "`URL` of the Redis, $REDIS_URL if absent")
	prefix := flags.String("prefix", "", "`prefix` of keys and channels, as in RedisOptions")
	keys := flags.String("keys", "", "encryption `keys`, separated by commas, as in RedisOptions")
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return usageError{"no command: want send, receive, publish, watch, members, close or ping"}
	}
	cmd, err := p.command(flags.Arg(0), flags.Args()[1:])
	if err != nil {
		return err
	}
	if *url == "" {
		return usageError{"no server: give -redis URL, or set REDIS_URL"}
	}
	options := grouphub.RedisOptions{Prefix: *prefix, Logger: slog.New(slog.DiscardHandler)}
	if *keys != "" {
		options.EncryptionKeys = strings.Split(*keys, ",")
	}
	layer, err := grouphub.NewRedisLayer(*url, &options)
	if err != nil {
		return err
	}
	defer layer.Close()
	p.policies = &policies{layer: layer.Layer.(*redis.Layer), known: make(map[string]grouphub.GroupPolicy)}
	p.hub = grouphub.New(&grouphub.Options{Layer: layer, Policy: p.policies.of, MaxEventSize: 64 << 20,
		Logger: slog.New(slog.DiscardHandler)})
	defer p.hub.Shutdown(context.Background())
	return cmd(ctx)
}

func (p *program) newFlags(usage string) *flag.FlagSet {
	flags := flag.NewFlagSet("grouphub", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // one line says what is wrong
	flags.Usage = func() {
		fmt.Fprintln(p.stderr, "usage: "+usage)
		flags.SetOutput(p.stderr)
		flags.PrintDefaults()
		flags.SetOutput(io.Discard)
	}
	return flags
}

// parse parses flags. Only -help prints the usage.
func parse(flags *flag.FlagSet, args []string) error {
	usage := flags.Usage
	flags.Usage = func() {}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage()
		return err
	case err != nil:
		return usageError{err.Error()}
	}
	return nil
}

// command returns what a command does, or says what is wrong with its arguments.
func (p *program) command(name string, args []string) (command, error) {
	switch name {
	case "send":
		return p.send(args)
	case "receive":
		return p.receive(args)
	case "publish":
		return p.publish(args)
	case "watch":
		return p.watch(args)
	case "members":
		return p.members(args)
	case "close":
		return p.close(args)
	case "ping":
		if err := count("ping", args, 0, 0); err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return p.hub.Ping(ctx) }, nil
	}
	return nil, usageError{fmt.Sprintf("unknown command %q: want send, receive, publish, watch, members, close or ping", name)}
}

// count checks how many arguments there are.
func count(usage string, args []string, least, most int) error {
	if len(args) < least || len(args) > most {
		return usageError{fmt.Sprintf("%d arguments, want: %s", len(args), usage)}
	}
	return nil
}

func (p *program) send(args []string) (command, error) {
	if err := count("send CHANNEL TYPE [JSON]", args, 2, 3); err != nil {
		return nil, err
	}
	data, err := p.data(args[2:])
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return p.hub.Send(ctx, args[0], args[1], data) }, nil
}

func (p *program) publish(args []string) (command, error) {
	flags := p.newFlags("grouphub publish [-once KEY] GROUP TYPE [JSON]")
	once := flags.String("once", "", "a `key`: sent again with it within five minutes, the event is delivered once")
	if err := parse(flags, args); err != nil {
		return nil, err
	}
	args = flags.Args()
	if err := count("publish [-once KEY] GROUP TYPE [JSON]", args, 2, 3); err != nil {
		return nil, err
	}
	data, err := p.data(args[2:])
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		if err := p.policies.find(ctx, args[0]); err != nil {
			return err
		}
		return p.hub.GroupSend(ctx, args[0], args[1], data, grouphub.Once(*once))
	}, nil
}

// data returns an event's data from the last argument, or from standard input if that is "-".
func (p *program) data(args []string) (any, error) {
	if len(args) == 0 {
		return nil, nil
	}
	data := []byte(args[0])
	if args[0] == "-" {
		var err error
		if data, err = io.ReadAll(p.stdin); err != nil {
			return nil, err
		}
	}
	if !json.Valid(data) {
		return nil, usageError{fmt.Sprintf("%.80q is not JSON: a string needs its quotes, as in '\"text\"'", data)}
	}
	return json.RawMessage(data), nil
}

func (p *program) receive(args []string) (command, error) {
	flags := p.newFlags("grouphub receive [-n 1] [-timeout 5s] CHANNEL")
	n := flags.Int("n", 1, "how many events")
	timeout := flags.Duration("timeout", 5*time.Second, "how long to wait for each")
	if err := parse(flags, args); err != nil {
		return nil, err
	}
	if err := count("receive [-n 1] [-timeout 5s] CHANNEL", flags.Args(), 1, 1); err != nil {
		return nil, err
	}
	if *n < 1 || *timeout <= 0 {
		return nil, usageError{fmt.Sprintf("-n %d and -timeout %v have to be positive", *n, *timeout)}
	}
	channel := flags.Arg(0)
	return func(ctx context.Context) error {
		for range *n {
			waiting, cancel := context.WithTimeout(ctx, *timeout)
			event, err := p.hub.Receive(waiting, channel)
			cancel()
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				return fmt.Errorf("nothing came to %q within %v", channel, *timeout)
			}
			if err == nil {
				err = p.print(event)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func (p *program) members(args []string) (command, error) {
	if err := count("members GROUP", args, 1, 1); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		members, err := p.hub.Members(ctx, args[0])
		if err != nil {
			return err
		}
		for _, m := range members {
			// As in presence events.
			err := p.print(struct {
				User    string          `json:"user,omitempty"`
				Channel string          `json:"channel"`
				Info    json.RawMessage `json:"info,omitempty"`
				Since   time.Time       `json:"since"`
			}{m.UserID, m.Channel, m.Info, m.Since})
			if err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func (p *program) close(args []string) (command, error) {
	if err := count("close GROUP CODE REASON", args, 3, 3); err != nil {
		return nil, err
	}
	code, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, usageError{fmt.Sprintf("close: code %q is no number", args[1])}
	}
	return func(ctx context.Context) error {
		if err := p.policies.find(ctx, args[0]); err != nil {
			return err
		}
		return p.hub.GroupClose(ctx, args[0], code, args[2])
	}, nil
}

func (p *program) watch(groups []string) (command, error) {
	if len(groups) == 0 {
		return nil, usageError{"no group, want: watch GROUP..."}
	}
	return func(ctx context.Context) error {
		failed := make(chan error, 1)
		for _, group := range groups {
			if err := p.policies.find(ctx, group); err != nil {
				return err
			}
			err := p.hub.Subscribe(ctx, group, func(e grouphub.Event) {
				if err := p.print(e); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			})
			if err != nil {
				return err
			}
		}
		fmt.Fprintf(p.stderr, "grouphub: joined %s\n", oneLine(fmt.Sprintf("%q", groups)))
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed: // the reader of a pipe has gone, say
			return err
		}
	}, nil
}

// print prints a value as a line of JSON.
func (p *program) print(v any) error {
	line, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(p.stdout, "%s\n", line)
	}
	return err
}
