package etcdrpc_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

func hang(ctx context.Context) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func TestDoEndsACallThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := etcdrpc.Do(t.Context(), 3*time.Second, hang)
		if !errors.Is(err, etcdrpc.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
		if got := etcdrpc.Classify(err); got != etcdrpc.Retry {
			t.Errorf("class %d", got)
		}
	})
}

func TestDoTellsTheCallersEndFromItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		canceled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := etcdrpc.Do(canceled, time.Minute, hang); !errors.Is(err, context.Canceled) || errors.Is(err, etcdrpc.ErrTimeout) {
			t.Errorf("canceled by the caller: %v", err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := etcdrpc.Do(short, time.Minute, hang); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, etcdrpc.ErrTimeout) {
			t.Errorf("the caller's deadline: %v", err)
		}
	})
}

func TestDoPassesResultsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, err := etcdrpc.Do(t.Context(), time.Second, func(context.Context) (string, error) { return "v", nil })
		if v != "v" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
		_, err = etcdrpc.Do(t.Context(), time.Second, func(context.Context) (int, error) { return 0, rpctypes.ErrNoSpace })
		if err != error(rpctypes.ErrNoSpace) {
			t.Errorf("an early error was changed: %v", err)
		}
		// An answer that comes late is an answer; an error that comes late keeps its meaning.
		late := func(err error) func(context.Context) (int, error) {
			return func(context.Context) (int, error) {
				time.Sleep(2 * time.Second)
				return 7, err
			}
		}
		if v, err := etcdrpc.Do(t.Context(), time.Second, late(nil)); v != 7 || err != nil {
			t.Errorf("late answer: %d, %v", v, err)
		}
		_, err = etcdrpc.Do(t.Context(), time.Second, late(rpctypes.ErrNoSpace))
		if !errors.Is(err, etcdrpc.ErrTimeout) || etcdrpc.Classify(err) != etcdrpc.NoSpace {
			t.Errorf("late error: %v", err)
		}
	})
}

func TestDoFreesItsDeadline(t *testing.T) {
	var inner context.Context
	if _, err := etcdrpc.Do(t.Context(), time.Hour, func(ctx context.Context) (int, error) {
		inner = ctx
		return 0, nil
	}); err != nil {
		t.Fatal(err)
	}
	if inner.Err() == nil {
		t.Error("the call's context lives on")
	}
}

func TestBackoffDoublesWithJitterUpToFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// pauses waits n times from the start and checks each pause.
		pauses := func(b *etcdrpc.Backoff, n int) (all []time.Duration) {
			want := 50 * time.Millisecond
			for i := range n {
				began := time.Now()
				if err := b.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				got := time.Since(began)
				if got < want/2 || got >= want {
					t.Errorf("pause %d took %v, want %v to %v", i, got, want/2, want)
				}
				if b.Long() != (want > time.Second) {
					t.Errorf("pause %d of up to %v: Long says %v", i, want, b.Long())
				}
				all = append(all, got)
				want = min(2*want, 5*time.Second)
			}
			return all
		}
		var b etcdrpc.Backoff
		if b.Long() {
			t.Error("the zero value is Long")
		}
		first := pauses(&b, 12)
		b.Reset()
		if b.Long() {
			t.Error("Long after Reset")
		}
		second := pauses(&b, 12)
		same := 0
		for i := range first {
			if first[i] == second[i] {
				same++
			}
		}
		if same == len(first) {
			t.Error("two series of pauses are equal: there is no jitter")
		}
	})
}

func TestBackoffEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b etcdrpc.Backoff
		for range 10 {
			_ = b.Wait(t.Context())
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		began := time.Now()
		if err := b.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != time.Millisecond {
			t.Errorf("ended after %v", took)
		}
	})
}
