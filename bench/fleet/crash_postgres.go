//go:build linux

package main

import (
	"fmt"
	"time"
)

// postgresAway is how long PostgreSQL is away after its crash.
const postgresAway = 2 * time.Second

// crashPostgres kills all processes of PostgreSQL, which comes back with what was committed: histories have
// a log, so that nobody has a Resync due.
func (d *driver) crashPostgres() (section, error) {
	s := section{Name: postgreSQL.scenario("crash"), Title: "What breaks under load" + postgreSQL.where(), Head: []string{"", "PostgreSQL is killed, and comes back"}}
	server, err := startPostgres(d.ctx)
	if err != nil {
		return s, err
	}
	f, publication, err := d.crowdFleetOn(server, d.size.crash, false)
	if err != nil {
		return s, err
	}
	defer f.close()
	r, err := d.underLoad("PostgreSQL is killed", f, publication, func(r *crashResult) error {
		began := time.Now()
		server.kill()
		if err := f.awaitLayer(f.hubs, false); err != nil {
			return err
		}
		r.noticed = time.Since(began)
		time.Sleep(postgresAway)
		if err := server.start(); err != nil {
			return err
		}
		return f.awaitLayer(f.hubs, true)
	})
	if err != nil {
		return s, err
	}
	s.crashed(r)
	s.Notes = append(s.Notes, d.size.crowdNote()+fmt.Sprintf(" PostgreSQL is started again after %s. Each commit waits for the disk.", postgresAway))
	return s, nil
}
