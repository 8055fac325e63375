//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	clusterMasters = 3
	clusterSlots   = 16384
	// clusterTimeout is how long the nodes of a new Cluster may take to agree.
	clusterTimeout = 30 * time.Second
	// meetTimeout is when nodes are introduced again: they give up a handshake that takes long.
	meetTimeout = 3 * time.Second
)

// A cluster is a store of three masters, each with a replica if a failover is to be shown. Hubs use
// sharded channels on it.
type cluster struct {
	masters  []*redisServer
	replicas []*redisServer // none, or one for each master
}

// startCluster returns when all nodes agree who has which slot, and each replica follows its master.
func startCluster(ctx context.Context, nodeTimeout time.Duration, replicated bool) (c *cluster, err error) {
	c = new(cluster)
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	start := func() *redisServer {
		var node *redisServer
		if err == nil {
			node, err = startRedisServer(ctx, &clusterNode{timeout: nodeTimeout})
		}
		return node
	}
	for range clusterMasters {
		if node := start(); node != nil {
			c.masters = append(c.masters, node)
		}
		if replicated && err == nil {
			if node := start(); node != nil {
				c.replicas = append(c.replicas, node)
			}
		}
	}
	if err == nil {
		err = c.form()
	}
	return c, err
}

// form does what redis-cli --cluster create does, which waits for seconds in between.
func (c *cluster) form() error {
	nodes := c.nodes()
	for i, node := range c.masters {
		if _, err := node.command(fmt.Sprintf("CLUSTER ADDSLOTSRANGE %d %d", firstSlot(i), firstSlot(i+1)-1)); err != nil {
			return err
		}
	}
	for i, node := range nodes { // epochs of their own, or failovers have to sort them out
		if _, err := node.command(fmt.Sprintf("CLUSTER SET-CONFIG-EPOCH %d", i+1)); err != nil {
			return err
		}
	}
	if err := meet(nodes); err != nil {
		return err
	}
	for i, replica := range c.replicas {
		id, err := c.masters[i].command("CLUSTER MYID")
		if err == nil {
			_, err = replica.command("CLUSTER REPLICATE " + id)
		}
		if err != nil {
			return err
		}
	}
	err := await(c.replicas, clusterTimeout, "INFO replication", func(text string) bool { return strings.Contains(text, "master_link_status:up") })
	if err != nil {
		return err
	}
	err = await(nodes, clusterTimeout, "CLUSTER NODES", func(text string) bool { return strings.Count(text, "slave ") == len(c.replicas) })
	if err != nil {
		return err
	}
	return await(nodes, clusterTimeout, "CLUSTER INFO", func(text string) bool {
		return strings.Contains(text, "cluster_state:ok") && strings.Contains(text, "cluster_slots_ok:"+strconv.Itoa(clusterSlots))
	})
}

// meet returns when each node has shaken hands with all.
func meet(nodes []*redisServer) (err error) {
	for deadline := time.Now().Add(clusterTimeout); time.Now().Before(deadline); {
		for _, node := range nodes[1:] {
			if _, err := nodes[0].command(fmt.Sprintf("CLUSTER MEET 127.0.0.1 %s %s", node.port, node.cluster.port)); err != nil {
				return err
			}
		}
		err = await(nodes, meetTimeout, "CLUSTER NODES", func(text string) bool {
			return strings.Count(text, " connected") == len(nodes) && !strings.Contains(text, "handshake")
		})
		if err == nil {
			break
		}
	}
	return err
}

// await waits until each of the nodes answers a command as it should.
func await(nodes []*redisServer, limit time.Duration, command string, done func(string) bool) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		waiting := ""
		for _, node := range nodes {
			text, err := node.command(command)
			if err != nil {
				return err
			}
			if !done(text) {
				waiting = text
			}
		}
		switch {
		case waiting == "":
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s later a node of the Cluster answers %s with %q", limit, command, waiting)
		}
	}
}

// firstSlot returns the first slot of a master, or the one behind the last.
func firstSlot(master int) int { return master * clusterSlots / clusterMasters }

// master returns which of the masters a room is on, if it has not failed over.
func (c *cluster) master(room int) (int, error) {
	text, err := c.masters[len(c.masters)-1].command("CLUSTER KEYSLOT {g:" + roomName(room) + "}") // the part of its keys that counts
	if err != nil {
		return 0, err
	}
	slot, err := strconv.Atoi(text)
	master := 0
	for slot >= firstSlot(master+1) {
		master++
	}
	return master, err
}

func (c *cluster) nodes() []*redisServer { return slices.Concat(c.masters, c.replicas) }

func (c *cluster) kind() storeKind { return aCluster }

func (c *cluster) url() string {
	url := c.masters[0].url()
	for i, node := range c.masters[1:] {
		url += []string{"?", "&"}[min(i, 1)] + "addr=" + node.address()
	}
	return url
}

// usage leaves the replicas out.
func (c *cluster) usage() (sum storeUsage, err error) {
	for _, node := range c.masters {
		u, err := node.usage()
		if err != nil {
			return sum, err
		}
		sum.CPU += u.CPU
		sum.Nodes = append(sum.Nodes, u.CPU)
		sum.In += u.In
		sum.Out += u.Out
		sum.Commands += u.Commands
		sum.Reads += u.Reads
	}
	return sum, nil
}

func (c *cluster) processes() (all []int) {
	for _, node := range c.nodes() {
		all = append(all, node.processes()...)
	}
	return all
}

func (c *cluster) close() {
	for _, node := range c.nodes() {
		node.close()
	}
}
