package main

import (
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"
)

// With --pprof a mirror serves profiles beside the rest, and they show none of the values that it has in its memory.
func TestPprof(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 10)
	put(t, p.sourceC, "/registry/secrets/team-a/s", strings.Repeat(secret, 10_000))
	b := inBackground(t, p.args("run", "--pprof", "--http-listen", loopback(t))...)
	s := served(t, b)
	s.ready(t, http.StatusOK, "tail")
	for path, want := range map[string]string{"profile?seconds=1": "nanoseconds", "heap": "inuse_space", "goroutine": "goroutine"} {
		code, body := s.get(t, "/debug/pprof/"+path)
		r, err := gzip.NewReader(strings.NewReader(body))
		if code != http.StatusOK || err != nil {
			t.Errorf("%s: %d, %v", path, code, err)
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil || !strings.Contains(string(text), want) || strings.Contains(string(text), secret) || strings.Contains(string(text), "/registry/") {
			t.Errorf("%s: no %q, or a key or a value, in %d bytes: %v", path, want, len(text), err)
		}
	}
	if code, _ := s.get(t, "/debug/pprof/cmdline"); code != http.StatusNotFound {
		t.Errorf("the command line is served: %d", code)
	}
	if code, body := s.get(t, "/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("healthz: %d %q", code, body)
	}
	b.cancel()
	if code := <-b.code; code != 0 {
		t.Errorf("the mirror ended with %d", code)
	}
}
