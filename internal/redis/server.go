package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// minVersion is the first version of Redis that the layer works with: the one that brought
// streams, and scripts whose effects are replicated and not their text.
const minVersion = 5

// A server that follows another accepts subscriptions and publications, and what is
// published there reaches nobody elsewhere.
var errReplica = errors.New("the server is a replica: what is published there reaches nobody elsewhere")

// serverInfo is what a server says of itself; what it does not want to say is empty.
type serverInfo struct {
	version string
	role    string
}

func (i serverInfo) isReplica() bool { return isReplica(i.role) }

func isReplica(role string) bool { return role == "slave" || role == "replica" }

// check says why the layer cannot work with a server.
func (i serverInfo) check() error {
	if i.isReplica() {
		return errReplica
	}
	major, _, _ := strings.Cut(i.version, ".")
	if n, err := strconv.Atoi(major); err == nil && n < minVersion {
		return fmt.Errorf("the server is redis %s, and %d is needed at least", i.version, minVersion)
	}
	return nil
}

// askServer asks a server what it is: by HELLO, which everybody may send, and where that is
// unknown by INFO, which some may not.
func (l *Layer) askServer(ctx context.Context, client rueidis.Client) (serverInfo, error) {
	protocol := "3"
	if l.option.AlwaysRESP2 {
		protocol = "2" // what the connection has must not change
	}
	hello, err := client.Do(ctx, client.B().Arbitrary("HELLO", protocol).Build()).AsMap()
	if err == nil {
		version, role := hello["version"], hello["role"]
		return serverInfo{text(version), text(role)}, nil
	}
	if _, refused := rueidis.IsRedisErr(err); !refused {
		return serverInfo{}, err
	}
	answer, err := client.Do(ctx, client.B().Info().Build()).ToString()
	if _, refused := rueidis.IsRedisErr(err); err != nil && !refused {
		return serverInfo{}, err
	}
	var i serverInfo
	for line := range strings.Lines(answer) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name {
		case "redis_version":
			i.version = value
		case "role":
			i.role = value
		}
	}
	return i, nil
}

func text(m rueidis.RedisMessage) string {
	s, _ := m.ToString()
	return s
}

// checkServers says whether the layer can work with what it is connected to. A node of a
// Cluster may be a replica: rueidis knows which ones are.
func (l *Layer) checkServers(ctx context.Context) error {
	if !l.cluster {
		i, err := l.askServer(ctx, l.client)
		if err != nil {
			return err
		}
		return i.check()
	}
	for _, node := range l.client.Nodes() {
		i, err := l.askServer(ctx, node)
		if err != nil {
			return err
		}
		i.role = ""
		return i.check() // one is as good as the others
	}
	return nil
}

// watchRole asks the server for its role again and again. After a failover the name or the
// address that the layer connects to may stand for another server, while the old one, a
// replica by now, keeps its connections and answers all that it is asked. They are closed
// then, and until the role is right nothing is sent.
func (l *Layer) watchRole(interval time.Duration) {
	for {
		wait := interval
		if l.demoted.Load() {
			wait = min(interval, demotedPoll)
		}
		select {
		case <-time.After(wait):
		case <-l.suspect:
		case <-l.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(l.ctx, l.callTimeout)
		i, err := l.askServer(ctx, l.client)
		cancel()
		switch {
		case err != nil: // a connection that is dead is not kept either
		case i.isReplica():
			if !l.demoted.Swap(true) {
				l.logger().Warn("grouphub: redis has become a replica, connecting anew until it is none", "address", strings.Join(l.option.InitAddress, ", "))
			}
			l.connections.drop()
		default:
			l.demoted.Store(false)
		}
	}
}
