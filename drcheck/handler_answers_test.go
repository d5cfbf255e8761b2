package drcheck

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The answers of each kind, as a client sees them.
func TestAnswers(t *testing.T) {
	clock := reportNoon
	var next ending
	h := NewHandler(func(context.Context) (*Result, error) {
		clock = clock.Add(3 * time.Second)
		return next.result, next.err
	}, HandlerConfig{MaxAge: time.Minute})
	h.now = func() time.Time { return clock }
	unreachable := ending{err: &Error{Kind: ErrUnreachable, Side: "source", Detail: "reading\nkeys", Hint: "see whether it runs"}}
	equal, differs := ending{result: sampleResults()["equal"]}, ending{result: sampleResults()["no-mirror"]}
	var out strings.Builder
	for _, step := range []struct {
		name, method, target, accept string
		next                         ending
		pass                         time.Duration
	}{
		{name: "no result yet", next: unreachable},
		{name: "no result yet", target: "?format=json", next: unreachable},
		{name: "made", next: equal},
		{name: "12.5 s later, from the last check", pass: 12500 * time.Millisecond},
		{name: "the same as JSON", accept: "application/json"},
		{name: "too old for the client", target: "?max-age=12s", next: differs},
		{name: "a new check as JSON", target: "?max-age=0&format=json", next: differs},
		{name: "head", method: http.MethodHead},
		{name: "older than MaxAge", pass: 192*time.Second - 3*time.Second, next: unreachable},
		{name: "the same as JSON", accept: "application/json", next: unreachable},
		{name: "head of a failure", method: http.MethodHead, next: unreachable},
		{name: "a failed check is not used again", next: equal},
		{name: "method", method: http.MethodPost, accept: "application/json"},
		{name: "method", method: http.MethodOptions, target: "?format=xml"},
		{name: "format", target: "?format=xml"},
		{name: "format twice", target: "?format=json&format=text"},
		{name: "format empty", target: "?format="},
		{name: "max-age without a unit", target: "?max-age=30", accept: "application/json"},
		{name: "max-age below 0", target: "?format=json&max-age=-1s"},
		{name: "max-age twice", target: "?max-age=0&max-age=1h"},
		{name: "unknown parameter", target: "?maxage=30s"},
		{name: "broken query", target: "?format=json;max-age=0"},
		{name: "a year that JSON has not", target: "?format=json&max-age=0", next: ending{result: &Result{Began: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}}},
	} {
		clock = clock.Add(step.pass)
		next = step.next
		method := step.method
		if method == "" {
			method = http.MethodGet
		}
		req := httptest.NewRequest(method, "/check"+step.target, nil)
		fmt.Fprintf(&out, "### %s: %s %s", step.name, method, req.URL)
		if step.accept != "" {
			req.Header.Set("Accept", step.accept)
			fmt.Fprintf(&out, " (Accept: %s)", step.accept)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		length := w.Header().Get("Content-Length")
		if method != http.MethodHead && length != strconv.Itoa(w.Body.Len()) {
			t.Errorf("%s: Content-Length %s, body has %d", step.name, length, w.Body.Len())
		}
		w.Header().Del("Content-Length")
		fmt.Fprintf(&out, "\n%d\n", w.Code)
		_ = w.Header().WriteSubset(&crlf{&out}, nil)
		fmt.Fprintf(&out, "\n%s\n", w.Body)
	}
	goldenReport(t, "answers.golden", out.String())
}

// crlf drops the carriage returns of HTTP.
type crlf struct{ out *strings.Builder }

func (c *crlf) Write(p []byte) (int, error) {
	c.out.Write(bytes.ReplaceAll(p, []byte("\r"), nil))
	return len(p), nil
}

func TestAccept(t *testing.T) {
	for _, c := range []struct {
		json   bool
		accept []string
	}{
		{false, nil},
		{false, []string{""}},
		{false, []string{"*/*"}}, // curl
		{true, []string{"application/json"}},
		{true, []string{"Application/JSON"}},
		{true, []string{"application/json; charset=utf-8"}},
		{true, []string{"application/*"}},
		{false, []string{"text/plain"}},
		{false, []string{"text/*"}},
		{false, []string{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}}, // browsers
		{true, []string{"application/json, text/plain, */*"}},                                // axios
		{true, []string{"application/json, */*;q=0.5"}},
		{true, []string{"*/*, application/json"}},
		{false, []string{"*/*, text/plain"}},
		{false, []string{"text/plain, application/json"}},
		{true, []string{"text/*, application/json"}},
		{false, []string{"text/plain;q=0.9, application/json;q=0.8"}},
		{true, []string{"text/plain;q=0.8, application/json;q=0.9"}},
		{true, []string{"text/plain;q=0.899, application/json;q=0.9"}},
		{false, []string{"application/json;q=0.9", "text/plain"}}, // two headers
		{true, []string{"text/plain;q=0.9", "application/json"}},
		{false, []string{"application/json;q=0, */*"}}, // the more exact range counts, not the better one
		{false, []string{"*/*, application/json;q=0.1"}},
		{true, []string{"*/*, text/plain;q=0.1"}},
		{true, []string{"text/plain;q=0, */*"}},
		{true, []string{"text/*;q=0.1, text/plain;q=0.2, */*;q=0.3"}},
		{false, []string{"application/json;q=0"}},
		{false, []string{"*/*;q=0"}},
		{false, []string{"image/png"}}, // neither: text
		{true, []string{"application/json;Q=1.000"}},
		{true, []string{`application/json;a=",";q=0.2, text/plain;q=0.1`}}, // a comma in a quoted string
		{true, []string{`application/json;a="\",";q=0.2,text/plain;q=0.1`}},
		{false, []string{"application/json;q=1.1"}}, // no weight: passed over
		{false, []string{"application/json;q=NaN"}},
		{false, []string{"application/json;q=1e0"}},
		{false, []string{"application/json;q=0.5000"}},
		{false, []string{"application/json;q=.5"}},
		{false, []string{"application/json;q="}},
		{false, []string{"application/json;q=-1"}},
		{true, []string{"application/json;q=1.1, application/json;q=0.5"}},
		{true, []string{",, application/json ,"}},
		{true, []string{"application/json;q=0.1, application/json, text/plain;q=0.5"}},
		{false, []string{"application/jsonx, x/application/json, *"}},
		{false, []string{`application/json;a="`}},
	} {
		if got := prefersJSON(c.accept); got != c.json {
			t.Errorf("Accept %q: JSON is %v, want %v", c.accept, got, c.json)
		}
	}
}
