package sequence

import (
	"strconv"
	"strings"

	"github.com/seed-29c60982/grouphub/layer"
)

// ID returns a position as clients see it. To them it is opaque.
func ID(p layer.Position) string {
	return p.Epoch + "." + strconv.FormatUint(p.Number, 36) + "." + p.Nonce
}

// ParseID reads an ID, which a stranger may have made up.
func ParseID(id string) (p layer.Position, ok bool) {
	fields := strings.Split(id, ".")
	if len(id) > 255 || len(fields) != 3 {
		return p, false
	}
	number, err := strconv.ParseUint(fields[1], 36, 63)
	return layer.Position{Epoch: fields[0], Number: number, Nonce: fields[2]}, err == nil
}

// contradict reports whether two nonces of one number show that it was given out twice:
// the server has lost writes.
func contradict(a, b string) bool { return a != "" && b != "" && a != b }
