//go:build race && unix

package load

func init() { raceEnabled = true }
