//go:build linux

// Bench measures what a WebSocket server pays for fan-out: grouphub, its peers, and
// the limit, a bare write(2) loop, side by side. See README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	if runChild(os.Args[1:]) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// runChild does the work of a process that the driver started, if this is one.
func runChild(args []string) bool {
	if len(args) == 0 {
		return false
	}
	var err error
	switch args[0] {
	case "serve":
		err = serve(args[1], args[2])
	case "load":
		err = generate()
	default:
		return false
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", args, err)
		os.Exit(1)
	}
	return true
}

func command(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var (
		run    = flags.String("run", "", "regular expression: scenarios to run")
		who    = flags.String("contenders", "", "regular expression: contenders to run (the limit always runs)")
		rounds = flags.Int("rounds", 5, "rounds; in each, every contender is measured once, in random order")
		length = flags.Duration("time", 1500*time.Millisecond, "how long one measurement lasts")
		conns  = flags.Int("conns", 0, "at most this many connections; 0: as many as the scenario says")
		short  = flags.Bool("short", false, "a quick look: one round, -time 300ms, -conns 1000")
		redis  = flags.String("redis", "", "URL of a Redis server; empty: start one for the run")
		store  = flags.String("json", "", "write the raw result to this file")
		from   = flags.String("from", "", "run nothing: take the result from this file")
		plot   = flags.String("plot", "", "write a picture (SVG) to this file")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		*rounds, *length, *conns = 1, 300*time.Millisecond, 1000
	}

	scenario, err := regexp.Compile(*run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	contender, err := regexp.Compile(*who)
	if err != nil {
		return fmt.Errorf("-contenders: %w", err)
	}
	var res *results
	if *from != "" {
		if res, err = readResults(*from); err == nil {
			res.keep(scenario, contender)
		}
	} else {
		d := choose(scenario, contender)
		d.rounds, d.length, d.conns, d.redis = *rounds, *length, *conns, *redis
		res, err = d.measure(ctx, os.Stderr)
	}
	if err != nil {
		return err
	}
	if len(res.Scenarios) == 0 {
		return fmt.Errorf("nothing to show: no scenario for -run %q", *run)
	}
	if *store != "" {
		if err := res.store(*store); err != nil {
			return err
		}
	}
	if *plot != "" {
		if err := os.WriteFile(*plot, drawPlot(res), 0o644); err != nil {
			return err
		}
	}
	_, err = io.WriteString(out, res.table())
	return err
}

// choose makes a driver for the scenarios and the contenders that the two expressions
// match. The limit is always among them.
func choose(scenario, contender *regexp.Regexp) *driver {
	d := new(driver)
	for _, s := range scenarios {
		if scenario.MatchString(s.Name) {
			d.scenarios = append(d.scenarios, s)
		}
	}
	for _, e := range entries {
		if e.name == limitName || contender.MatchString(e.name) {
			d.entries = append(d.entries, e)
		}
	}
	return d
}
