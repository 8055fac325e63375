//go:build linux

package main

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-29c60982/grouphub"
)

// A storeKind says what the hubs of a fleet meet over. It is a part of the names of scenarios.
type storeKind string

const (
	oneRedis   storeKind = "redis"
	aCluster   storeKind = "cluster" // three masters, with sharded channels
	postgreSQL storeKind = "postgres"
)

// String is the name in sentences and tables.
func (k storeKind) String() string {
	switch k {
	case aCluster:
		return "the Cluster"
	case postgreSQL:
		return "PostgreSQL"
	}
	return "Redis"
}

// scenario names what is done on a store. On one Redis it is what is done alone.
func (k storeKind) scenario(name string) string {
	if k == oneRedis {
		return name
	}
	return name + "-" + string(k)
}

// where says so behind a title.
func (k storeKind) where() string {
	if k == oneRedis {
		return ""
	}
	return ", on " + k.String()
}

// missing is an error if the store's programs are not installed.
func (k storeKind) missing() error {
	if k == postgreSQL {
		_, err := postgresPrograms()
		return err
	}
	_, err := exec.LookPath("redis-server")
	return err
}

// start starts a store for a scenario in which nothing fails.
func (d *driver) start(kind storeKind) (store, error) {
	switch kind {
	case aCluster:
		return startCluster(d.ctx, d.size.nodeTimeout, false)
	case postgreSQL:
		return startPostgres(d.ctx)
	}
	return startRedis(d.ctx)
}

// A store is the server, or the servers, over which the hubs of a fleet meet. Its methods belong to
// the goroutine of its fleet.
type store interface {
	// kind and url are what a hub's process makes its layer of.
	kind() storeKind
	url() string
	// usage is what all servers together have used and done since they started.
	usage() (storeUsage, error)
	// processes are the numbers of those that run now.
	processes() []int
	// close kills what runs, and removes what it has left.
	close()
}

// A storeUsage is what a store has used and done.
type storeUsage struct {
	CPU      time.Duration
	Nodes    []time.Duration // the CPU of each master of a Cluster
	In, Out  int64           // bytes from and to the hubs
	Commands int64           // of clients, and of their scripts
	Reads    int64           // of histories
}

func (u storeUsage) minus(v storeUsage) storeUsage {
	d := storeUsage{CPU: u.CPU - v.CPU, In: u.In - v.In, Out: u.Out - v.Out, Commands: u.Commands - v.Commands, Reads: u.Reads - v.Reads}
	for i, used := range u.Nodes {
		d.Nodes = append(d.Nodes, used-v.Nodes[i])
	}
	return d
}

// layer connects a hub's process to its store. The traffic counts where the store does not.
func (k storeKind) layer(url string, logger *slog.Logger, t *traffic) (grouphub.Layer, error) {
	if k == postgreSQL {
		return postgresLayer(url, logger, t)
	}
	return grouphub.NewRedisLayer(url, &grouphub.RedisOptions{Sharded: k == aCluster, Logger: logger})
}

// A traffic is what a hub's process and its store have said to each other, in bytes.
type traffic struct{ sent, received atomic.Int64 }

// freePort returns a port of loopback that nobody has at this moment. No kernel hands it out by itself, so
// that it is still free when the server comes back.
func freePort() (string, error) {
	for {
		port := strconv.Itoa(20_000 + rand.IntN(12_000))
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		switch {
		case err == nil:
			return port, listener.Close()
		case !errors.Is(err, syscall.EADDRINUSE):
			return "", err
		}
	}
}
