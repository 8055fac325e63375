package grouphub_test

import (
	"context"
	"fmt"

	"github.com/seed-29c60982/grouphub"
)

// A price that is behind is worth nothing: each has a key, and who is behind gets the last one.
func ExampleLatest() {
	hub := grouphub.New(nil)
	ctx := context.Background()
	defer hub.Shutdown(ctx)
	quote := struct {
		Symbol string
		Price  float64
	}{"ACME", 41.5}
	err := hub.GroupSend(ctx, "dashboard", "price", quote, grouphub.Latest("price:"+quote.Symbol))
	fmt.Println(err)
	err = hub.GroupSend(ctx, "dashboard", "price", quote, grouphub.Latest(""))
	fmt.Println(err)
	// Output:
	// <nil>
	// grouphub: invalid name: group send: Latest key: "" is empty
}
