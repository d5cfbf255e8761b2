package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// What a step can do with the context that it gets from a Runner. Outside of one, such as in a step's own test, Save fails, Load finds nothing, and Note and Report do nothing.

// maxSaved bounds one saved value.
const maxSaved = 64 << 10

// world is what a context of a step leads to.
type world struct {
	step     string
	writable bool // not within Observe and Verify
	save     func(ctx context.Context, key string, value json.RawMessage) error
	load     func(step, key string) (json.RawMessage, bool)
	note     func(ctx context.Context, text string)
	report   func(text string)
	began    func() time.Time

	mu     sync.Mutex
	closed bool // the call has returned: goroutines that it left behind change nothing any more
}

// change calls f unless the call has returned.
func (w *world) change(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		f()
	}
	return !w.closed
}

func (w *world) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
}

type worldKey struct{}

func worldOf(ctx context.Context) *world {
	w, _ := ctx.Value(worldKey{}).(*world)
	return w
}

// Save keeps a value for the step that ctx belongs to, durably, before it returns: such as what was there before Do changed it, for Undo. It survives crashes.
// A later value of a key replaces the former. The value is JSON of up to 64 KiB without secrets: the journal and its copy hold it in plain text.
// ErrReadOnly within Observe and Verify, in a dry run and outside of a Runner.
func Save(ctx context.Context, key string, value any) error {
	w := worldOf(ctx)
	if w == nil || !w.writable {
		return &Error{Kind: ErrReadOnly, Detail: fmt.Sprintf("key %q", key), Hint: "save within Do or Undo"}
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return &Error{Kind: ErrConfig, Step: w.step, Detail: fmt.Sprintf("what is saved under %q is no JSON", key), Cause: err}
	}
	if len(raw) > maxSaved || len(key) > maxText || key == "" || key != clean(key) {
		return &Error{Kind: ErrConfig, Step: w.step, Detail: fmt.Sprintf("%q cannot be saved: %d bytes", brief(key), len(raw)), Hint: fmt.Sprintf("use a plain key and at most %d bytes", maxSaved)}
	}
	if !w.change(func() { err = w.save(ctx, key, raw) }) {
		return &Error{Kind: ErrReadOnly, Step: w.step, Detail: fmt.Sprintf("key %q, after the call has returned", key), Hint: "save before Do or Undo returns"}
	}
	return err
}

// Load reads into value what the step that ctx belongs to has saved under a key; false if nothing was.
func Load(ctx context.Context, key string, value any) (bool, error) {
	if w := worldOf(ctx); w != nil {
		return LoadFrom(ctx, w.step, key, value)
	}
	return false, nil
}

// LoadFrom reads what another step has saved.
func LoadFrom(ctx context.Context, step, key string, value any) (bool, error) {
	w := worldOf(ctx)
	if w == nil {
		return false, nil
	}
	raw, ok := w.load(step, key)
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(raw, value); err != nil {
		return true, &Error{Kind: ErrConfig, Step: w.step, Detail: fmt.Sprintf("what step %s saved under %q does not fit a %T", step, key, value)}
	}
	return true, nil
}

// Began is when Do of the step that ctx belongs to was first about to be called in this journal; false if it was not. It survives crashes, so Observe of a step that
// restarts something can say Done when that something is younger.
func Began(ctx context.Context) (time.Time, bool) {
	if w := worldOf(ctx); w != nil {
		at := w.began()
		return at, !at.IsZero()
	}
	return time.Time{}, false
}

// Note writes a text into the journal, such as what a command printed. It must not hold secrets: the step masks them. Long ones are cut. Within Observe and Verify it does nothing.
func Note(ctx context.Context, text string) {
	if w := worldOf(ctx); w != nil && w.writable {
		w.change(func() { w.note(ctx, text) })
	}
}

// Report says how far the step is, for whoever watches: Status and Hooks.Progress. It is not kept.
func Report(ctx context.Context, text string) {
	if w := worldOf(ctx); w != nil {
		w.change(func() { w.report(clean(text)) })
	}
}
