package redis

import (
	"context"
	"crypto/sha1"
	"embed"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// What has to happen in one step on the server is a script there. Their files say what
// keys and arguments they take, and what they return.
//
//go:embed scripts/*.lua
var scripts embed.FS

var (
	historyPublish = newScript("history", "history_publish")
	historyRead    = newScript("history", "history_read")

	beat = newScript("beat")

	leaseChange = newScript("leases", "lease_change")
	leaseList   = newScript("leases", "lease_list")
	leaseRead   = newScript("lease_read")

	queueAppend = newScript("queue", "queue_append")
	queueTake   = newScript("queue", "queue_take")
	queueDone   = newScript("queue", "queue_done")
	queueBack   = newScript("queue", "queue_back")
)

// A script is sent by its hash, and in full where the server does not know that.
type script struct {
	sha, source string
}

// newScript joins the files of these names into one script.
func newScript(names ...string) script {
	var source strings.Builder
	for _, name := range names {
		part, err := scripts.ReadFile("scripts/" + name + ".lua")
		if err != nil {
			panic(err) // the names are those above
		}
		source.Write(part)
	}
	sum := sha1.Sum([]byte(source.String()))
	return script{hex.EncodeToString(sum[:]), source.String()}
}

// run runs the script on keys of one slot. It may have run even if there is an error,
// see do; an error that Redis answered with says that it changed nothing.
func (l *Layer) run(ctx context.Context, operation, name string, script script, keys, args []string) (rueidis.RedisResult, error) {
	count, deadline := int64(len(keys)), time.Now().Add(l.callTimeout)
	result, err := l.do(ctx, operation, name, l.client.B().Evalsha().Sha1(script.sha).Numkeys(count).Key(keys...).Arg(args...).Build())
	if answer := (*rueidis.RedisError)(nil); errors.As(err, &answer) && answer.IsNoScript() {
		ctx, cancel := context.WithDeadline(ctx, deadline) // for both together
		defer cancel()
		return l.do(ctx, operation, name, l.client.B().Eval().Script(script.source).Numkeys(count).Key(keys...).Arg(args...).Build())
	}
	return result, err
}
