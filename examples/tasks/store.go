package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const (
	maxKept = 1000             // jobs that a memoryStore keeps
	keepFor = 10 * time.Minute // how long a job can be looked at after its last progress
)

// errFull means that there are as many jobs as may be.
var errFull = errors.New("too many jobs")

// A store has the state of all jobs. It stands for the application's database.
type store interface {
	set(ctx context.Context, id string, p progress) error
	get(ctx context.Context, id string) (p progress, ok bool, err error)
}

// A memoryStore is for a single process.
type memoryStore struct {
	mu   sync.Mutex
	jobs map[string]keptJob
}

type keptJob struct {
	progress
	until time.Time
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
	s.jobs[id] = keptJob{p, now.Add(keepFor)}
	return nil
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
	set := s.client.B().Set().Key("tasks:" + id).Value(string(data)).Ex(keepFor).Build()
	return s.client.Do(ctx, set).Error()
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
