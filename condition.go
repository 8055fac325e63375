package grouphub

// The function of an If is the application's, and is called for each connection and event. So
// it is called where no lock is held, before the bytes of a batch are composed, like a Render.

// condition returns the function that says whether the connection gets an event, nil if it
// gets it anyway.
func (c *Conn) condition(d *delivery) func(*Conn, Event) bool {
	if d.closes() || !c.endpoint.conditions {
		return nil
	}
	return c.endpoint.consumer.Events.handler(d.env.Name).condition
}

// hasConditions reports whether the connection has to be asked about an event of a batch.
func (c *Conn) hasConditions(batch []*delivery) bool {
	if !c.endpoint.conditions {
		return false
	}
	for _, d := range batch {
		if c.condition(d) != nil {
			return true
		}
	}
	return false
}

// wanted returns the events of a batch that the connection gets, as far as its consumer's
// conditions say. It calls the application.
func (c *Conn) wanted(batch []*delivery) []*delivery {
	if !c.hasConditions(batch) {
		return batch
	}
	wanted := make([]*delivery, 0, len(batch))
	for _, d := range batch {
		if condition := c.condition(d); condition == nil || c.meets(condition, d) {
			wanted = append(wanted, d)
		}
	}
	return wanted
}

// meets calls the function of an If. One that panics ends the connection, like a callback.
func (c *Conn) meets(condition func(*Conn, Event) bool, d *delivery) (met bool) {
	c.call("if "+quoted(d.env.Name), func() error {
		met = condition(c, d.event())
		return nil
	})
	return met
}

// common returns the events of a batch that two parts of it have in common.
func common(batch, a, b []*delivery) []*delivery {
	switch len(batch) { // nearly always: one of them is the whole batch
	case len(a):
		return b
	case len(b):
		return a
	}
	var both []*delivery
	for _, d := range batch {
		inA, inB := len(a) > 0 && a[0] == d, len(b) > 0 && b[0] == d
		if inA {
			a = a[1:]
		}
		if inB {
			b = b[1:]
		}
		if inA && inB {
			both = append(both, d)
		}
	}
	return both
}
