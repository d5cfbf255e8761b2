package drcheck

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultCheckTimeout is how long one check of a Handler may take.
const DefaultCheckTimeout = 5 * time.Minute

// HandlerConfig says how a Handler makes checks. The zero value of each field is its documented default.
type HandlerConfig struct {
	// Timeout is the deadline of one check; 0 or below is DefaultCheckTimeout. WriteTimeout and ReadTimeout of the http.Server have to be longer, or 0.
	Timeout time.Duration
	// MaxAge lets a request be answered with the result of the last check, instead of by a new one, while that ended less than this ago; 0 or below makes a check for each request.
	// A request's ?max-age= replaces it. A check that failed answers nobody but those who waited for it.
	MaxAge time.Duration
	// Logger is told of each check that was made, or given up; nil discards. Why a check could not be made is told to those who asked for it, and by Last. No key is logged.
	Logger *slog.Logger
}

// Handler makes checks for HTTP clients, such as curl, and for the program that it is part of. One check runs at a time: who asks while it runs waits for the same one.
//
// A check belongs to nobody in particular. A caller that goes away ends its own waiting only; when the last one has gone, the check is canceled, as nobody wants it any more,
// and leaves no trace in Last unless it was made nevertheless. Who asks from then on gets another check, which begins when the canceled one has returned.
// So clients with less patience than a check takes never get a result: for them, call Check at intervals and set MaxAge.
//
// No goroutine is left when no check runs. See docs/drcheck-result.md for what clients get.
type Handler struct {
	check   func(ctx context.Context) (*Result, error)
	timeout time.Duration
	maxAge  time.Duration
	log     *slog.Logger
	now     func() time.Time

	mu      sync.Mutex
	running *flight // nil when no check runs
	last    ending  // of the last check that ended
	made    ending  // of the last check that was made; without an error
}

// ending is how a check ended: with a result or with an error. Results are shared and never changed.
type ending struct {
	result *Result
	err    error
	at     time.Time
}

// flight is a check under way.
type flight struct {
	cancel  context.CancelFunc
	waiting int  // how many callers want the outcome; guarded by Handler.mu
	givenUp bool // no caller was left, and it was canceled; guarded by Handler.mu
	done    chan struct{}
	ending  // set before done is closed
}

// errNoResult is the outcome of a check that returned nothing, or that ended its goroutine.
var errNoResult = errors.New("the check ended without a result")

// NewHandler returns a Handler that makes checks by calling check, such as (*Checker).Check, which must return soon after its context ends. It panics without one.
func NewHandler(check func(ctx context.Context) (*Result, error), cfg HandlerConfig) *Handler {
	if check == nil {
		panic("drcheck: NewHandler was called without a check; pass (*Checker).Check")
	}
	h := &Handler{check: check, timeout: cfg.Timeout, maxAge: cfg.MaxAge, log: cfg.Logger, now: time.Now}
	if h.timeout <= 0 {
		h.timeout = DefaultCheckTimeout
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	return h
}

// Check makes a check, or waits for the one that runs; it never answers from an older one. It returns ctx's error if ctx ends first.
// The Result is shared with others: do not change it.
func (h *Handler) Check(ctx context.Context) (*Result, error) {
	o := h.wait(ctx, 0)
	return o.result, o.err
}

// Last returns how the last check ended and when: with a result or an error, never both. All are zero before that. The Result is shared: do not change it.
func (h *Handler) Last() (r *Result, at time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last.result, h.last.at, h.last.err
}

// wait returns the outcome of the last check if that was made less than maxAge ago, else that of the one that runs or of a new one.
func (h *Handler) wait(ctx context.Context, maxAge time.Duration) ending {
	for {
		if err := ctx.Err(); err != nil {
			return ending{err: err}
		}
		h.mu.Lock()
		if o := h.last; o.result != nil && h.now().Sub(o.at) < maxAge {
			h.mu.Unlock()
			return o
		}
		if h.running == nil {
			h.start()
		}
		f := h.running
		canceled := f.givenUp // before this caller came: it is waited for, but its outcome is not theirs
		if !canceled {
			f.waiting++
		}
		h.mu.Unlock()

		select {
		case <-f.done:
			if !canceled {
				return f.ending
			}
		case <-ctx.Done():
			if !canceled {
				h.leave(f)
			}
			return ending{err: ctx.Err()}
		}
	}
}

// leave takes a caller away from a check, and cancels it when that was the last one.
func (h *Handler) leave(f *flight) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.givenUp = true
		f.cancel()
	}
}

// start begins a check. h.mu is held.
func (h *Handler) start() {
	ctx, cancel := context.WithTimeout(context.Background(), h.timeout)
	f := &flight{cancel: cancel, done: make(chan struct{})}
	h.running = f
	go func() {
		var r *Result
		var err error
		defer func() { h.finish(ctx, f, r, err) }() // also if check ends the goroutine: callers wait
		r, err = h.check(ctx)
	}()
}

// finish notes how a check ended and tells those who wait.
func (h *Handler) finish(ctx context.Context, f *flight, r *Result, err error) {
	defer f.cancel()
	switch {
	case err != nil:
		r = nil
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("it did not end within %s (HandlerConfig.Timeout): %w", h.timeout, err)
		}
	case r == nil:
		err = errNoResult
	}
	h.mu.Lock()
	f.ending = ending{result: r, err: err, at: h.now()}
	h.running = nil
	givenUp := f.givenUp && err != nil
	if !givenUp {
		h.last = f.ending
	}
	if err == nil {
		h.made = f.ending
	}
	h.mu.Unlock()
	close(f.done)

	switch {
	case givenUp:
		h.log.Info("check given up: nobody waits for it any more")
	case err == nil:
		level := slog.LevelInfo
		if !r.Equal {
			level = slog.LevelWarn
		}
		h.log.Log(context.Background(), level, "check made", "equal", r.Equal, "missed", r.Count.Missed, "surplus", r.Count.Surplus, "different", r.Count.Different,
			"accepted", r.Count.Accepted, "sourceRevision", r.SourceRevision, "took", r.Ended.Sub(r.Began))
	}
}

// madeBody is the JSON of a check that was made, failedBody that of any other answer. docs/drcheck-result.md documents both.
type madeBody struct {
	AgeSeconds float64 `json:"ageSeconds"`
	Result     *Result `json:"result"`
}

type failedBody struct {
	Error      string   `json:"error"`
	AgeSeconds *float64 `json:"ageSeconds,omitempty"`
	Last       *Result  `json:"last,omitempty"`
}

// ServeHTTP answers GET and HEAD, whatever the path, with the outcome of a check.
func (h *Handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	asked, err := h.readRequest(req)
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		h.fail(w, req, asked.json, http.StatusMethodNotAllowed, fmt.Sprintf("method %s is not allowed; use GET or HEAD", reportName(req.Method)), ending{})
		return
	}
	if err != nil {
		h.fail(w, req, asked.json, http.StatusBadRequest, err.Error(), ending{})
		return
	}
	came := h.now()
	o := h.wait(req.Context(), asked.maxAge)
	if o.err != nil {
		h.mu.Lock()
		made := h.made
		h.mu.Unlock()
		h.fail(w, req, asked.json, http.StatusServiceUnavailable, "the check could not be made: "+o.err.Error(), made)
		return
	}
	verdict, age := "differs", h.age(o)
	if o.result.Equal {
		verdict = "equal"
	}
	w.Header().Set("X-Understudy-Check", verdict)
	sendAnswer(w, req, http.StatusOK, asked.json, madeBody{AgeSeconds: inSeconds(age), Result: o.result}, func(body io.Writer) {
		if o.at.Before(came) {
			fmt.Fprintf(body, "result of a check that ended %s ago:\n", reportDuration(age))
		}
		_ = o.result.WriteText(body)
	})
}

// fail answers without a check having been made: why, and the last result if there is one.
func (h *Handler) fail(w http.ResponseWriter, req *http.Request, asJSON bool, status int, why string, last ending) {
	answer, age := failedBody{Error: why, Last: last.result}, h.age(last)
	if last.result != nil {
		s := inSeconds(age)
		answer.AgeSeconds = &s
	}
	sendAnswer(w, req, status, asJSON, answer, func(body io.Writer) {
		fmt.Fprintln(body, reportLine(why))
		switch {
		case last.result != nil:
			fmt.Fprintf(body, "last result, %s old:\n", reportDuration(age))
			_ = last.result.WriteText(body)
		case status == http.StatusServiceUnavailable:
			fmt.Fprintln(body, "there is no earlier result")
		}
	})
}

// sendAnswer writes an answer. That a client does not take it is nobody's concern.
func sendAnswer(w http.ResponseWriter, req *http.Request, status int, asJSON bool, answer any, text func(body io.Writer)) {
	var body bytes.Buffer // takes everything: writing to it cannot fail
	header := w.Header()
	if asJSON {
		header.Set("Content-Type", "application/json")
		e := json.NewEncoder(&body)
		e.SetEscapeHTML(false)
		if err := e.Encode(answer); err != nil { // such as a time that no calendar has
			status = http.StatusInternalServerError
			_ = e.Encode(failedBody{Error: "the result cannot be written as JSON: " + err.Error()})
		}
	} else {
		header.Set("Content-Type", "text/plain; charset=utf-8")
		text(&body)
	}
	header.Set("X-Content-Type-Options", "nosniff") // keys may look like markup
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	if req.Method != http.MethodHead {
		_, _ = w.Write(body.Bytes())
	}
}

// age is how long ago a check ended.
func (h *Handler) age(o ending) time.Duration { return max(h.now().Sub(o.at), 0) }

// inSeconds rounds to milliseconds.
func inSeconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// checkRequest is what a client wants.
type checkRequest struct {
	json   bool
	maxAge time.Duration
}

// readRequest reads the query and the Accept header. The form of the answer is known even if there is an error.
func (h *Handler) readRequest(req *http.Request) (checkRequest, error) {
	asked := checkRequest{json: prefersJSON(req.Header.Values("Accept")), maxAge: h.maxAge}
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return asked, fmt.Errorf("query %s cannot be read: %w", reportName(req.URL.RawQuery), err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := query[name]
		value := values[0]
		switch name {
		case "format":
			if len(values) > 1 || value != "json" && value != "text" {
				return asked, fmt.Errorf("format is %s; use json or text", reportName(strings.Join(values, " and ")))
			}
			asked.json = value == "json"
		case "max-age":
			age, err := time.ParseDuration(value)
			if len(values) > 1 || err != nil || age < 0 {
				return asked, fmt.Errorf("max-age is %s; use a duration such as 30s or 5m, or 0 for a new check", reportName(strings.Join(values, " and ")))
			}
			asked.maxAge = age
		default:
			return asked, fmt.Errorf("parameter %s is not known; use format and max-age", reportName(name))
		}
	}
	return asked, nil
}

// qvalue is the weight of a media range, from 0 to 1 with three digits at most.
var qvalue = regexp.MustCompile(`^(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)$`)

// prefersJSON reports whether a client's Accept header asks for application/json rather than text/plain. The higher weight wins, then the type that is named more exactly,
// then the one named first, then text; text also goes to a client that accepts neither. What cannot be parsed is passed over.
func prefersJSON(accept []string) bool {
	type match struct {
		exact, place int // how exactly the range names the type: 1 by */*, 2 by its first part, 3 in full
		q            float64
	}
	best := func(mainType, full string) (m match) {
		for place, element := range splitList(strings.Join(accept, ",")) {
			mediaRange, params, err := mime.ParseMediaType(element)
			if err != nil {
				continue
			}
			weight, given := params["q"]
			if !given {
				weight = "1"
			}
			exact := map[string]int{"*/*": 1, mainType + "/*": 2, full: 3}[mediaRange]
			if exact < max(m.exact, 1) || !qvalue.MatchString(weight) {
				continue
			}
			if q, _ := strconv.ParseFloat(weight, 64); exact > m.exact || q > m.q {
				m = match{exact, place, q}
			}
		}
		return m
	}
	j, t := best("application", "application/json"), best("text", "text/plain")
	switch {
	case j.q != t.q:
		return j.q > t.q
	case j.q == 0:
		return false
	case j.exact != t.exact:
		return j.exact > t.exact
	}
	return j.place < t.place
}

// splitList splits a header at the commas that are not within a quoted string.
func splitList(s string) (elements []string) {
	begin, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			elements = append(elements, s[begin:i])
			begin = i + 1
		}
	}
	return append(elements, s[begin:])
}
