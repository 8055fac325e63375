package grouphub

import (
	"fmt"
	"strings"
	"testing"
)

func TestResumeParametersAreParsed(t *testing.T) {
	long := strings.Repeat("x", maxName)
	for query, want := range map[string]string{
		"":                         "none",
		"a=b&c=resume":             "none",
		"resumes=a@1":              "none",
		"resume=":                  "map[]",
		"resume":                   "map[]",
		"resume=g@1.2.3":           "map[g:1.2.3]",
		"resume=g%401.2.3":         "map[g:1.2.3]",
		"resume=a%26b%40c@1":       "map[a&b@c:1]",
		"resume=a+b@1&x=y":         "map[a b:1]",
		"x=y&resume=a@1&resume=b@": "map[a:1 b:]",
		"resume=g@1&resume=g@2":    "map[g:2]",
		"resume=@1&resume=nothing": "map[]",
		"resume=%zz@1&resume=a@1":  "map[a:1]",
		"resume=" + long + "@1":    "map[" + long + ":1]",
		"resume=" + long + "x@1":   "map[]",
	} {
		asked, got := parseResume(query), "none"
		if asked.ids != nil {
			got = fmt.Sprint(asked.ids)
		}
		if got != want || asked.overflow {
			t.Errorf("%.50s: %.100s, overflow %v, want %.100s", query, got, asked.overflow, want)
		}
	}
}
