package monitor

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/testutil"
)

// unzip is a profile without its compression.
func unzip(t *testing.T, body string) string {
	t.Helper()
	r, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatalf("no profile: %v\n%.200q", err, body)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Profiles are served only if asked for, although net/http/pprof is there in any case.
func TestProfilesAreOffByDefault(t *testing.T) {
	f := newFixed()
	for _, path := range []string{"", "profile?seconds=1", "trace?seconds=1", "heap", "goroutine", "cmdline", "symbol"} {
		if code, _ := f.get(t, "/debug/pprof/"+path); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
	if _, body := f.get(t, "/"); strings.Contains(body, "pprof") {
		t.Errorf("the index shows profiles: %q", body)
	}
}

// What is served holds types of samples as a profile does, and nothing of the memory: a value that lies in the heap is in none of them.
func TestProfiles(t *testing.T) {
	f := newFixed()
	f.cfg.Profiles = true
	value := bytes.Repeat([]byte("s3cret-in-the-heap "), 1<<16) // large enough to be sampled for sure
	for path, want := range map[string]string{"profile?seconds=1": "nanoseconds", "heap": "inuse_space", "allocs": "alloc_space", "goroutine": "goroutine", "threadcreate": "threadcreate", "heap?gc=1&debug=0": "inuse_space"} {
		code, body := f.get(t, "/debug/pprof/"+path)
		if code != http.StatusOK {
			t.Errorf("%s: %d", path, code)
			continue
		}
		if text := unzip(t, body); !strings.Contains(text, want) || strings.Contains(text, string(value[:18])) {
			t.Errorf("%s: no %q, or the value, in %d bytes", path, want, len(text))
		}
	}
	if code, body := f.get(t, "/debug/pprof/trace?seconds=1"); code != http.StatusOK || !strings.HasPrefix(body, "go 1.") || strings.Contains(body, string(value[:18])) {
		t.Errorf("trace: %d, %d bytes that begin with %.20q", code, len(body), body)
	}
	// This test's own stack is in the text form; the arguments of its calls are not.
	if code, body := f.get(t, "/debug/pprof/goroutine?debug=1"); code != http.StatusOK || !strings.Contains(body, "TestProfiles") {
		t.Errorf("goroutines as text: %d %.200q", code, body)
	}
	if _, body := f.get(t, "/debug/pprof/"); !strings.Contains(body, "/debug/pprof/heap\n") || strings.Contains(body, "cmdline") {
		t.Errorf("the index: %q", body)
	}
	if _, body := f.get(t, "/"); !strings.Contains(body, "/debug/pprof/\n") {
		t.Errorf("the index of the server: %q", body)
	}
	for path, want := range map[string]int{"cmdline": 404, "symbol": 404, "block": 404, "goroutine?debug=2": 400, "goroutine?debug=%2B2": 400, "goroutine?debug=3": 400, "heap?debug=x": 400,
		"profile?seconds=301": 400, "profile?seconds=0": 400, "profile?seconds=-1": 400, "profile?seconds=1.5": 400, "trace?seconds=1e9": 400, "trace?seconds=NaN": 400, "heap?seconds=99999999999999999999": 400} {
		if code, body := f.get(t, "/debug/pprof/"+path); code != want {
			t.Errorf("%s: %d %.200q, want %d", path, code, body, want)
		}
	}
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/debug/pprof/heap", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("a POST: %d", w.Code)
	}
	runtime.KeepAlive(value)
}

// The server has no limit that would refuse a profile of the usual 30 seconds, and its end does not wait for one.
func TestProfileUnderWay(t *testing.T) {
	f := newFixed()
	f.cfg.Profiles = true
	ctx, cancel := context.WithCancel(testutil.Context(t))
	defer cancel()
	s, err := Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handler := f.Handler()
	entered := make(chan struct{})
	s.Serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		handler.ServeHTTP(w, r)
	}), slog.New(slog.DiscardHandler))
	type answer struct {
		code int
		err  error
	}
	answered := make(chan answer, 1)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	go func() {
		resp, err := client.Get("http://" + s.listener.Addr().String() + "/debug/pprof/profile?seconds=300")
		if err != nil {
			answered <- answer{0, err}
			return
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		answered <- answer{resp.StatusCode, err}
	}()
	<-entered
	cancel()
	s.Close()
	if a := <-answered; a.err != nil || a.code != http.StatusOK {
		t.Errorf("a profile of five minutes was refused, or broken off by the end: %+v", a)
	}
}
