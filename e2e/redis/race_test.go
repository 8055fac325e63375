//go:build race

package redis_test

func init() { raceEnabled = true }
