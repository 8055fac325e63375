//go:build linux

// Fleet measures what many hubs on one Redis, on a Cluster or on PostgreSQL cost and survive: what an event costs against the hubs
// that have members, a deploy under load, crashes, and a logout. It starts the hubs, the servers and the
// clients as processes of their own, on loopback. See ../README.md and docs/scaling.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/seed-29c60982/grouphub/bench/internal/measure"
)

func main() {
	if runChild(os.Args[1:]) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
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
	case "hub":
		err = serveHub(args[1])
	case "load":
		err = generate()
	default:
		return false
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "fleet %s: %v\n", args[0], err)
		os.Exit(1)
	}
	return true
}

func command(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	var (
		run   = flags.String("run", "", "regular expression: scenarios to run")
		short = flags.Bool("short", false, "a smaller fleet, in three minutes, and on one Redis unless -run says otherwise")
		store = flags.String("json", "", "write the result to this file")
		soak  = flags.Duration("soak", 0, "run nothing but a soak, for so long")
		every = flags.Duration("every", soakReplace, "time between two replacements of a hub in a soak")
		from  = flags.String("from", "", "run nothing: take the result from this file")
		plot  = flags.String("plot", "", "write a picture (SVG) to this file")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := regexp.Compile(*run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	var r *report
	if *from != "" {
		r, err = readReport(*from)
	} else {
		d := &driver{ctx: ctx, size: fullSize, scenarios: scenarios}
		if *short {
			d.size = shortSize
			if *run == "" {
				d.scenarios = slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return s.store != oneRedis })
			}
		}
		if *soak > 0 {
			d.scenarios = []scenario{soaking(*soak, *every)}
		}
		r, err = d.measure(chosen, os.Stderr)
	}
	if err != nil {
		return err
	}
	if *store != "" {
		if err := r.store(*store); err != nil {
			return err
		}
	}
	if *plot != "" {
		if err := os.WriteFile(*plot, drawCharts(r), 0o644); err != nil {
			return err
		}
	}
	fmt.Fprint(out, r.table())
	if failures := r.failures(); len(failures) > 0 {
		return errors.New(strings.Join(failures, "; "))
	}
	return nil
}

// A driver runs scenarios, each on a fleet of its own.
type driver struct {
	ctx       context.Context
	size      size
	scenarios []scenario
	log       io.Writer
}

// A scenario finds out one thing.
type scenario struct {
	name  string
	store storeKind
	run   func(*driver) (section, error)
}

var scenarios = []scenario{
	{"cost", oneRedis, func(d *driver) (section, error) { return d.cost(oneRedis, 0) }},
	{"cost-history", oneRedis, func(d *driver) (section, error) { return d.cost(oneRedis, kept) }},
	{"rate", oneRedis, func(d *driver) (section, error) { return d.rates(oneRedis) }},
	{"groups", oneRedis, func(d *driver) (section, error) { return d.groups(oneRedis, 0) }},
	{"groups-history", oneRedis, func(d *driver) (section, error) { return d.groups(oneRedis, kept) }},
	{"deploy", oneRedis, (*driver).deploy},
	{"crash", oneRedis, (*driver).crash},
	{"logout", oneRedis, (*driver).logout},
	{"presence", oneRedis, (*driver).presence},
	{"snapshots", oneRedis, (*driver).snapshots},
	{"connections", oneRedis, (*driver).connections},
	{"cost-cluster", aCluster, func(d *driver) (section, error) { return d.cost(aCluster, 0) }},
	{"cost-history-cluster", aCluster, func(d *driver) (section, error) { return d.cost(aCluster, kept) }},
	{"rate-cluster", aCluster, func(d *driver) (section, error) { return d.rates(aCluster) }},
	{"groups-history-cluster", aCluster, func(d *driver) (section, error) { return d.groups(aCluster, kept) }},
	{"crash-cluster", aCluster, (*driver).crashCluster},
	{"cost-postgres", postgreSQL, func(d *driver) (section, error) { return d.cost(postgreSQL, 0) }},
	{"cost-history-postgres", postgreSQL, func(d *driver) (section, error) { return d.cost(postgreSQL, kept) }},
	{"rate-postgres", postgreSQL, func(d *driver) (section, error) { return d.rates(postgreSQL) }},
	{"crash-postgres", postgreSQL, (*driver).crashPostgres},
}

// kept is how many events rooms with history keep.
const kept = 1000

// A size says how large the fleets are, and how long it is measured.
type size struct {
	costHubs, costMembers []int // hubs of a room, the most last, and its members on each
	costRate              float64
	costLength            time.Duration
	costRounds            int
	rateHubs              []int     // hubs that get each event
	rates                 []float64 // events per second

	groups                 []int // rooms
	groupsHubs, groupsEach int   // hubs of a room, and rooms of a client
	idleLength             time.Duration

	deploy, crash                    crowdSize
	calm                             time.Duration // before something happens, and after it
	soakHubs, soakClients, soakRooms int           // hubs, clients in all, and rooms of the soak
	soakRate                         float64       // events per second

	users               int // of the logouts, each with a connection on each hub
	present             int // members of the large room
	pages, boards       int // clients that show a dashboard, and dashboards
	filled, filledRooms int // connections of each hub of a full fleet, and rooms beside the large one

	nodeTimeout time.Duration // cluster-node-timeout
}

var (
	fullSize = size{
		costHubs: []int{1, 2, 4, 8, 16}, costMembers: []int{1, 10, 25}, costRate: 100, costLength: 2 * time.Second, costRounds: 3,
		rateHubs: []int{4, 8, 16}, rates: []float64{100, 300, 1000, 3000},
		groups: []int{100, 1000, 10_000}, groupsHubs: 4, groupsEach: 20, idleLength: 20 * time.Second,
		deploy: crowdSize{8, 10_000, 500, 50}, crash: crowdSize{8, 1500, 500, 200}, calm: 3 * time.Second, users: 400, present: 5000, pages: 12_000, boards: 50, filled: 15_000, filledRooms: 1200, nodeTimeout: 5 * time.Second,
		soakHubs: 4, soakClients: 15_000, soakRooms: 300, soakRate: 100,
	}
	shortSize = size{
		costHubs: []int{1, 2, 4, 8}, costMembers: []int{1, 10}, costRate: 100, costLength: time.Second, costRounds: 1,
		rateHubs: []int{2, 8}, rates: []float64{100, 1000},
		groups: []int{100, 2000}, groupsHubs: 4, groupsEach: 20, idleLength: 5 * time.Second,
		deploy: crowdSize{4, 500, 100, 100}, crash: crowdSize{4, 500, 100, 100}, calm: 2 * time.Second, users: 100, present: 500, pages: 2000, boards: 20, filled: 1000, filledRooms: 50, nodeTimeout: 5 * time.Second,
		soakHubs: 4, soakClients: 2000, soakRooms: 100, soakRate: 100,
	}
	tinySize = size{
		costHubs: []int{1, 2, 3}, costMembers: []int{1, 3}, costRate: 200, costLength: 100 * time.Millisecond, costRounds: 1,
		rateHubs: []int{1, 2}, rates: []float64{50, 200},
		groups: []int{10, 50}, groupsHubs: 2, groupsEach: 5, idleLength: 100 * time.Millisecond,
		deploy: crowdSize{2, 20, 5, 50}, crash: crowdSize{2, 20, 5, 50}, calm: 300 * time.Millisecond, users: 6, present: 12, pages: 40, boards: 3, filled: 20, filledRooms: 2, nodeTimeout: time.Second,
		soakHubs: 2, soakClients: 40, soakRooms: 5, soakRate: 50,
	}
)

// measure runs the scenarios that were chosen.
func (d *driver) measure(chosen *regexp.Regexp, log io.Writer) (*report, error) {
	runtime.LockOSThread() // children end with the thread that started them
	defer runtime.UnlockOSThread()
	d.log = log
	r := &report{Machine: measure.ThisMachine()}
	for _, s := range d.scenarios {
		if !chosen.MatchString(s.name) {
			continue
		}
		if err := s.store.missing(); err != nil {
			fmt.Fprintf(log, "%s is left out: %v\n", s.name, err)
			continue
		}
		began := time.Now()
		found, err := s.run(d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(log, "%s took %s\n", s.name, time.Since(began).Round(time.Second))
		r.Sections = append(r.Sections, found)
	}
	if len(r.Sections) == 0 {
		return nil, errors.New("no scenario was chosen that can run")
	}
	return r, nil
}
