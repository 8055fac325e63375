package grouphub

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
)

// A *Reject is an error by which [Authenticate] and a Consumer's Accept choose the
// HTTP answer. Status is 400 to 599; anything else counts as the status that an
// ordinary error gets. Reason is sent to the client as one line of plain text; if it is
// empty, the client gets the status's usual text.
type Reject struct {
	Status int
	Reason string
}

func (r *Reject) Error() string {
	return fmt.Sprintf("grouphub: rejected with %d: %s", r.Status, r.Reason)
}

// refuse answers a request as err says, if it is a *Reject. Any other error gets the
// fallback status, and its text is not sent: it may not be meant for strangers.
func refuse(w http.ResponseWriter, err error, fallback int) {
	status, reason := fallback, ""
	var r *Reject
	if errors.As(err, &r) && r != nil {
		reason = r.Reason
		if r.Status >= 400 && r.Status <= 599 {
			status = r.Status
		}
	}
	http.Error(w, cmp.Or(oneLine(reason), http.StatusText(status), "refused"), status)
}
