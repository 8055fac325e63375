package sequence

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func TestHeldPublicationsThatAreTooManyAreReadAgain(t *testing.T) {
	live(t, layer.Keep{Count: 100_000, Life: time.Hour}, func(s *topic) {
		s.set(func() { s.latency = time.Second })
		s.publish(2, false)
		s.publish(2, true) // known when the read begins
		synctest.Wait()
		s.publish(maxHeld+20, true)
		time.Sleep(10 * time.Second)
		s.publish(1, true)
		s.expect(t, 4+maxHeld+20+1, 0)
	})
}

func TestHeldPublicationsThatAreTooLargeAreReadAgain(t *testing.T) {
	live(t, layer.Keep{Count: 100_000, Life: time.Hour}, func(s *topic) {
		s.set(func() { s.down = true })
		s.publish(1, false)
		for range maxHeldBytes / 1000 * 2 {
			s.publish(1, true)
			if n, bytes := s.holds(); bytes > maxHeldBytes || bytes != 1000*n {
				t.Fatalf("%d publications of %d bytes are held", n, bytes)
			}
		}
		s.set(func() { s.down = false })
		time.Sleep(maxPause)
		s.expect(t, 1+maxHeldBytes/1000*2, 0)
		if n, bytes := s.holds(); n != 0 || bytes != 0 {
			t.Errorf("%d publications of %d bytes are left", n, bytes)
		}
	})
}

func TestHeldPublicationsWaitForRoom(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.latency = time.Second })
		s.publish(1, false)
		s.publish(1, true)
		synctest.Wait()
		s.publish(20, true) // not in what is being read
		s.set(func() { s.narrow = true })
		for delivered := 1; delivered <= 22; delivered++ {
			time.Sleep(5 * time.Second)
			s.expect(t, delivered, 0)
			s.set(func() { s.full = false })
		}
	})
}

func TestHeldPublicationsGrowOlder(t *testing.T) {
	live(t, hundred, func(s *topic) {
		s.set(func() { s.latency = 3 * time.Second })
		s.publish(1, false)
		s.publish(1, true)
		synctest.Wait()
		time.Sleep(time.Second)
		late := numbered("A", 13) // not in what is being read
		late.Age = 10 * time.Second
		s.Receive(late)
		time.Sleep(10 * time.Second)
		s.expect(t, 3, 0)
		if s.lastAge != 12*time.Second {
			t.Errorf("an age of %v for what had one of 10s and waited for 2s", s.lastAge)
		}
	})
}
