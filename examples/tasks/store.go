package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const (
	maxKept = 1000             // jobs that a memoryStore keeps
	keepFor = 10 * time.Minute // how long a job can be looked at after its last progress

	// A job is overdue when nobody has said anything of it for so long. A job that waits has lost
	// its message by then, which a named channel keeps for 60 s, so there are never two.
	waitFor   = 65 * time.Second
	silentFor = 4 * beatEvery
)

// patience is how long nobody needs to say anything of a job.
func (p progress) patience() time.Duration {
	if p.State == waiting {
		return waitFor
	}
	return silentFor
}

// errFull means that there are as many jobs as may be.
var errFull = errors.New("too many jobs")

// A store has the state of all jobs. It stands for the application's database.
type store interface {
	set(ctx context.Context, id string, p progress) error
	get(ctx context.Context, id string) (p progress, ok bool, err error)
	// overdue returns the jobs that are not over, and of which nothing was set for their patience.
	// Each is returned to one caller, and again when it has been waited for as long as for a message.
	overdue(ctx context.Context) (ids []string, err error)
}

// A memoryStore is for a single process.
type memoryStore struct {
	mu   sync.Mutex
	jobs map[string]keptJob
}

type keptJob struct {
	progress
	until time.Time
	due   time.Time // when it is overdue, unless it is over
}

func (s *memoryStore) set(_ context.Context, id string, p progress) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if _, ok := s.jobs[id]; !ok && len(s.jobs) >= maxKept {
		for other, job := range s.jobs {
			if now.After(job.until) {
				delete(s.jobs, other)
			}
		}
		if len(s.jobs) >= maxKept {
			return errFull
		}
	}
	s.jobs[id] = keptJob{p, now.Add(keepFor), now.Add(p.patience())}
	return nil
}

func (s *memoryStore) overdue(context.Context) (ids []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for id, job := range s.jobs {
		if !job.over() && now.After(job.due) {
			job.due = now.Add(waitFor)
			s.jobs[id] = job
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *memoryStore) get(_ context.Context, id string) (progress, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	job, ok := s.jobs[id]
	return job.progress, ok && time.Now().Before(job.until), nil
}

// A redisStore is for several processes, and Redis itself forgets the jobs that are over.
type redisStore struct{ client rueidis.Client }

func newRedisStore(url string) (s redisStore, err error) {
	option, err := rueidis.ParseURL(url)
	if err == nil {
		option.DisableCache = true
		s.client, err = rueidis.NewClient(option)
	}
	return s, err
}

func (s redisStore) set(ctx context.Context, id string, p progress) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	due := s.client.B().Zrem().Key(unfinished).Member(id).Build()
	if !p.over() {
		due = s.client.B().Zadd().Key(unfinished).ScoreMember().ScoreMember(score(p.patience()), id).Build()
	}
	set := s.client.B().Set().Key("tasks:" + id).Value(string(data)).Ex(keepFor).Build()
	for _, result := range s.client.DoMulti(ctx, set, due) {
		err = errors.Join(err, result.Error())
	}
	return err
}

// unfinished is a sorted set of the jobs that are not over, by when they are overdue.
const unfinished = "tasks:unfinished"

// score is the time after a while, in seconds of Unix time.
func score(after time.Duration) float64 {
	return float64(time.Now().Add(after).UnixMilli()) / 1000
}

// overdueScript returns the jobs that are overdue at ARGV[1], and puts them off until ARGV[2].
var overdueScript = rueidis.NewLuaScript(`
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], ARGV[2], id) end
return ids`)

func (s redisStore) overdue(ctx context.Context) ([]string, error) {
	times := []string{fmt.Sprintf("%.3f", score(0)), fmt.Sprintf("%.3f", score(waitFor))}
	return overdueScript.Exec(ctx, s.client, []string{unfinished}, times).AsStrSlice()
}

func (s redisStore) get(ctx context.Context, id string) (p progress, ok bool, err error) {
	data, err := s.client.Do(ctx, s.client.B().Get().Key("tasks:"+id).Build()).AsBytes()
	if rueidis.IsRedisNil(err) {
		return p, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	return p, err == nil, err
}
