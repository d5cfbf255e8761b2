package drcheck

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// madeResult is a result with a number.
func madeResult(n int64) *Result { return &Result{Mode: Content, Equal: true, SourceRevision: n} }

// scripted is a check that returns what the test says, when the test says so.
type scripted struct {
	began atomic.Int64
	ctx   context.Context // of the last check; read it while all goroutines are blocked
	tell  chan ending
}

func newScripted() *scripted { return &scripted{tell: make(chan ending, 1)} }

func (s *scripted) check(ctx context.Context) (*Result, error) {
	s.ctx = ctx
	s.began.Add(1)
	o := <-s.tell // whatever becomes of ctx: a check takes its time to notice
	return o.result, o.err
}

func getCheck(h *Handler, ctx context.Context, target string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodGet, target, nil).WithContext(ctx)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func TestAHundredCallersShareOneCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		h := NewHandler(s.check, HandlerConfig{})
		var callers sync.WaitGroup
		var good atomic.Int64
		for i := range 100 {
			callers.Go(func() {
				var got bool
				switch i % 3 {
				case 0:
					r, err := h.Check(t.Context())
					got = err == nil && r.SourceRevision == 7
				case 1:
					w := getCheck(h, t.Context(), "/check?format=json")
					got = w.Code == http.StatusOK && strings.Contains(w.Body.String(), `"sourceRevision":7,`)
				case 2: // the check takes no time, and yet is no older one
					w := getCheck(h, t.Context(), "/check")
					got = w.Code == http.StatusOK && strings.HasPrefix(w.Body.String(), "Equal: the target holds all that the source held at revision 7;")
				}
				if got {
					good.Add(1)
				}
			})
		}
		synctest.Wait()
		if s.began.Load() != 1 || good.Load() != 0 {
			t.Fatalf("%d checks began, %d callers were answered before the end", s.began.Load(), good.Load())
		}
		s.tell <- ending{result: madeResult(7)}
		callers.Wait()
		if s.began.Load() != 1 || good.Load() != 100 {
			t.Errorf("%d checks were made, %d of 100 callers got the result", s.began.Load(), good.Load())
		}
	})
}

// handlerCaller asks a Handler in the background.
type handlerCaller struct {
	cancel context.CancelFunc
	maxAge time.Duration
	http   bool
	done   bool // guarded by synctest.Wait
	result *Result
	err    error
	answer *httptest.ResponseRecorder
	// want is how the model answers, nil while it does not.
	want *ending
}

// handlerModel is what a Handler promises, step by step and without concurrency.
type handlerModel struct {
	now        time.Time
	began      int64
	runs       bool
	givenUp    bool
	waiting    []*handlerCaller // for the check that runs
	next       []*handlerCaller // for the end of one that was given up
	last, made ending
}

func (m *handlerModel) arrive(c *handlerCaller) {
	switch {
	case m.last.result != nil && m.now.Sub(m.last.at) < c.maxAge:
		c.want = &ending{result: m.last.result}
	case m.givenUp:
		m.next = append(m.next, c)
	default:
		if !m.runs {
			m.began++
		}
		m.runs = true
		m.waiting = append(m.waiting, c)
	}
}

func (m *handlerModel) leave(c *handlerCaller) {
	c.want = &ending{err: context.Canceled}
	without := func(list []*handlerCaller) (rest []*handlerCaller) {
		for _, other := range list {
			if other != c {
				rest = append(rest, other)
			}
		}
		return rest
	}
	m.waiting, m.next = without(m.waiting), without(m.next)
	m.givenUp = m.runs && len(m.waiting) == 0
}

func (m *handlerModel) finish(o ending) {
	o.at = m.now
	if o.err == nil || !m.givenUp {
		m.last = o
	}
	if o.err == nil {
		m.made = o
	}
	for _, c := range m.waiting {
		c.want = &o
	}
	again := m.next
	m.runs, m.givenUp, m.waiting, m.next = false, false, nil, nil
	for _, c := range again {
		m.arrive(c)
	}
}

// TestHandlerKeepsItsPromises lets callers come and go, checks end well or not, and time pass, in random order, and holds each step against the model.
func TestHandlerKeepsItsPromises(t *testing.T) {
	for _, seed := range seeds(t, 150) {
		synctest.Test(t, func(t *testing.T) { handlerSchedule(t, seed) })
		if t.Failed() {
			return
		}
	}
}

func handlerSchedule(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	s := newScripted()
	h := NewHandler(s.check, HandlerConfig{MaxAge: time.Minute})
	m := &handlerModel{now: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)}
	h.now = func() time.Time { return m.now } // changes while all else is blocked
	var callers []*handlerCaller
	broken := errors.New("broken")
	var trace []string
	step := func(name string, args ...any) { trace = append(trace, fmt.Sprintf(name, args...)) }

	for n := range 60 {
		closing := n >= 50 // nobody comes any more, those who wait go, and the check ends
		switch op := rng.IntN(10); {
		case op < 4 && !closing:
			c := &handlerCaller{maxAge: []time.Duration{0, 30 * time.Second, time.Minute}[rng.IntN(3)], http: rng.IntN(2) == 0}
			if !c.http {
				c.maxAge = 0
			}
			ctx, cancel := context.WithCancel(t.Context())
			c.cancel = cancel
			step("caller %d arrives, http %v, max-age %s", len(callers), c.http, c.maxAge)
			callers = append(callers, c)
			m.arrive(c)
			go func() {
				if !c.http {
					c.result, c.err = h.Check(ctx)
				} else if c.maxAge == h.maxAge {
					c.answer = getCheck(h, ctx, "/", "Accept", "application/json")
				} else {
					c.answer = getCheck(h, ctx, "/?format=json&max-age="+c.maxAge.String())
				}
				c.done = true
			}()
		case op < 7 || n >= 58:
			for i, c := range callers {
				if c.want == nil && (closing || rng.IntN(2) == 0) {
					step("caller %d leaves", i)
					m.leave(c)
					c.cancel()
					if !closing {
						break
					}
				}
			}
			if n == 59 && m.runs {
				synctest.Wait()
				step("the check ends late")
				s.tell <- ending{err: broken}
				m.finish(ending{err: broken})
			}
		case op < 9 && m.runs:
			o := ending{result: madeResult(int64(n))}
			if rng.IntN(3) == 0 {
				o = ending{err: broken}
			}
			step("the check ends: %v", o)
			s.tell <- o
			m.finish(o)
		default:
			d := time.Duration(rng.IntN(40)) * time.Second
			step("%s pass", d)
			m.now = m.now.Add(d)
		}
		synctest.Wait()
		m.compare(t, h, s, callers)
		if t.Failed() {
			t.Errorf("repeat with UNDERSTUDY_SEED=%d:\n%s", seed, strings.Join(trace, "\n"))
			break
		}
	}
	for _, c := range callers {
		c.cancel()
	}
	close(s.tell)
}

// compare holds the Handler against the model.
func (m *handlerModel) compare(t *testing.T, h *Handler, s *scripted, callers []*handlerCaller) {
	if s.began.Load() != m.began {
		t.Errorf("%d checks began, want %d", s.began.Load(), m.began)
	}
	if m.runs && (s.ctx.Err() != nil) != m.givenUp {
		t.Errorf("the check that runs: %v; given up: %v", s.ctx.Err(), m.givenUp)
	}
	if r, at, err := h.Last(); r != m.last.result || err != m.last.err || !at.Equal(m.last.at) {
		t.Errorf("Last: %v, %v, %v, want %+v", r, err, at, m.last)
	}
	for i, c := range callers {
		if c.done != (c.want != nil) {
			t.Errorf("caller %d: answered %v, want %v", i, c.done, c.want != nil)
			continue
		}
		if !c.done {
			continue
		}
		if !c.http {
			if c.result != c.want.result || c.err != c.want.err {
				t.Errorf("caller %d: got %v, %v, want %+v", i, c.result, c.err, *c.want)
			}
			continue
		}
		if c.answer == nil {
			continue // looked at before
		}
		var body struct {
			Result, Last *Result
			Error        string
			AgeSeconds   float64
		}
		if err := json.Unmarshal(c.answer.Body.Bytes(), &body); err != nil {
			t.Errorf("caller %d: %v: %s", i, err, c.answer.Body)
		}
		status, age := http.StatusOK, 0.0
		var last *Result
		switch {
		case c.want.err != nil:
			status, last = http.StatusServiceUnavailable, m.made.result
			if last != nil {
				age = m.now.Sub(m.made.at).Seconds()
			}
			if !strings.Contains(body.Error, c.want.err.Error()) {
				t.Errorf("caller %d: error is %q, want %v", i, body.Error, c.want.err)
			}
		case c.want.result == m.last.result:
			age = m.now.Sub(m.last.at).Seconds()
		}
		if diff := cmp.Diff(c.want.result, body.Result); diff != "" || c.answer.Code != status || body.AgeSeconds != age {
			t.Errorf("caller %d: status %d, age %v, want %d, %v: %s", i, c.answer.Code, body.AgeSeconds, status, age, diff)
		}
		if diff := cmp.Diff(last, body.Last); diff != "" {
			t.Errorf("caller %d: last result: %s", i, diff)
		}
		c.answer = nil
	}
}

// The check has a deadline of its own, and nothing else of its first caller's.
func TestCheckTimesOut(t *testing.T) {
	for _, timeout := range []time.Duration{0, -1, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			want := timeout
			if timeout <= 0 {
				want = DefaultCheckTimeout
			}
			n := 0
			h := NewHandler(func(ctx context.Context) (*Result, error) {
				if n++; n == 1 {
					return madeResult(1), nil
				}
				<-ctx.Done()
				return nil, fmt.Errorf("source: %w", ctx.Err())
			}, HandlerConfig{Timeout: timeout})
			if _, err := h.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			type key struct{}
			ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, 1), time.Hour)
			defer cancel()
			w := getCheck(h, ctx, "/")
			if took := time.Since(begin); took != want {
				t.Errorf("it took %s, want %s", took, want)
			}
			head := fmt.Sprintf("the check could not be made: it did not end within %s (HandlerConfig.Timeout): source: context deadline exceeded\nlast result, %s old:\nEqual: ", want, want)
			if w.Code != http.StatusServiceUnavailable || !strings.HasPrefix(w.Body.String(), head) {
				t.Errorf("status %d: %s", w.Code, w.Body)
			}
			if r, at, err := h.Last(); r != nil || !errors.Is(err, context.DeadlineExceeded) || !at.Equal(begin.Add(want)) {
				t.Errorf("Last: %v, %v, %v", r, err, at)
			}
		})
	}
}

// A check that returns nothing, or that ends its goroutine, leaves nobody waiting.
func TestCheckWithoutAResult(t *testing.T) {
	for name, check := range map[string]func(context.Context) (*Result, error){
		"nothing": func(context.Context) (*Result, error) { return nil, nil },
		"goexit":  func(context.Context) (*Result, error) { runtime.Goexit(); return madeResult(1), nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			h := NewHandler(check, HandlerConfig{})
			for range 2 {
				if r, err := h.Check(t.Context()); r != nil || err != errNoResult {
					t.Errorf("%s: %v, %v", name, r, err)
				}
			}
		})
	}
	defer func() {
		if recover() == nil {
			t.Error("a Handler without a check was made")
		}
	}()
	NewHandler(nil, HandlerConfig{})
}

// With a real connection: a client that goes away ends the check only if it was the last one.
func TestClientGoesAway(t *testing.T) {
	started, ended := make(chan struct{}, 1), make(chan error, 1)
	release := make(chan struct{})
	h := NewHandler(func(ctx context.Context) (*Result, error) {
		started <- struct{}{}
		select {
		case <-ctx.Done():
			ended <- ctx.Err()
			return nil, ctx.Err()
		case <-release:
			return madeResult(5), nil
		}
	}, HandlerConfig{})
	server := httptest.NewServer(h)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(ctx context.Context) (int, string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/check", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		var body bytes.Buffer
		_, err = body.ReadFrom(resp.Body)
		return resp.StatusCode, body.String(), err
	}

	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 2)
	go func() { _, _, err := ask(ctx); answered <- err }()
	<-started
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) { // hangs unless the check is canceled
		t.Errorf("the check ended with %v", err)
	}
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Errorf("the client got %v", err)
	}

	// Another client gets a new check, which outlives a companion.
	var status int
	var body string
	go func() { var err error; status, body, err = ask(t.Context()); answered <- err }()
	<-started
	gone, leave := context.WithCancel(t.Context())
	joined := make(chan struct{})
	companion := make(chan error)
	go func() {
		_, err := h.Check(announced{gone, joined})
		companion <- err
	}()
	<-joined
	leave()
	if err := <-companion; !errors.Is(err, context.Canceled) {
		t.Errorf("the companion got %v", err)
	}
	close(release)
	if err := <-answered; err != nil || status != http.StatusOK || !strings.HasPrefix(body, "Equal: the target holds all that the source held at revision 5;") {
		t.Errorf("%v, status %d: %s", err, status, body)
	}
	if r, _, err := h.Last(); r == nil || err != nil || len(ended) > 0 {
		t.Errorf("Last: %v, %v", r, err)
	}
}

// announced tells that its end is being waited for.
type announced struct {
	context.Context
	joined chan struct{}
}

func (a announced) Done() <-chan struct{} { close(a.joined); return a.Context.Done() }

// One line for each check: never a key, and no error, which those who asked for the check have got.
func TestHandlerLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		var logged bytes.Buffer
		h := NewHandler(s.check, HandlerConfig{Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))})
		differs := madeResult(9)
		differs.Equal, differs.Count = false, Count{Missed: 1, Surplus: 2, Different: 3, Accepted: 4}
		differs.Differences = []Difference{{Class: Missed, Key: "/registry/secrets/a/b"}}
		for _, o := range []ending{{result: madeResult(8)}, {result: differs}, {err: errors.New("broken")}} {
			s.tell <- o
			_, _ = h.Check(t.Context())
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = h.Check(ctx) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		s.tell <- ending{err: context.Canceled}
		synctest.Wait()
		want := `level=INFO msg="check made" equal=true missed=0 surplus=0 different=0 accepted=0 sourceRevision=8 took=0s
level=WARN msg="check made" equal=false missed=1 surplus=2 different=3 accepted=4 sourceRevision=9 took=0s
level=INFO msg="check given up: nobody waits for it any more"
`
		if diff := cmp.Diff(want, logged.String()); diff != "" {
			t.Error(diff)
		}
	})
}
