package failover

import "github.com/understudy-dr/understudy/internal/hook"

// Hooks are called synchronously as things happen, from the runner's own goroutines and from those of steps: they must be quick, must not block and must be safe for concurrent use.
// They must not call Run or Undo. A nil func is skipped.
type Hooks struct {
	// Recorded is called after each record is durable in the journal's file: everything that happens to a run is one. RecordIntent comes before Do, RecordDone after it.
	Recorded func(RecordedInfo)
	// Observed is called after each observation, those that change nothing included.
	Observed func(ObservedInfo)
	// Waiting is called when the run begins to wait, for a person or for a condition.
	Waiting func(WaitingInfo)
	// Progress is called when a step reports how far it is.
	Progress func(ProgressInfo)
	// Overdue is called when a step has not returned though its time is up.
	Overdue func(OverdueInfo)
	// Copy is called when the copy in the etcd is lost or reached again.
	Copy func(CopyInfo)
}

// RecordedInfo is what Hooks.Recorded gets.
type RecordedInfo struct{ Record Record }

// ObservedInfo is what Hooks.Observed gets.
type ObservedInfo struct {
	Step        string
	Observation Observation
	Error       error // of Observe
}

// WaitingInfo is what Hooks.Waiting gets.
type WaitingInfo struct{ Waiting Waiting }

// ProgressInfo is what Hooks.Progress gets.
type ProgressInfo struct{ Step, Text string }

// OverdueInfo is what Hooks.Overdue gets.
type OverdueInfo struct{ Step, Call string }

// CopyInfo is what Hooks.Copy gets.
type CopyInfo struct {
	Reached bool
	Detail  string
}

// JoinHooks calls each of several hooks in turn.
func JoinHooks(all ...Hooks) Hooks {
	return Hooks{
		Recorded: hook.Join(all, func(h Hooks) func(RecordedInfo) { return h.Recorded }),
		Observed: hook.Join(all, func(h Hooks) func(ObservedInfo) { return h.Observed }),
		Waiting:  hook.Join(all, func(h Hooks) func(WaitingInfo) { return h.Waiting }),
		Progress: hook.Join(all, func(h Hooks) func(ProgressInfo) { return h.Progress }),
		Overdue:  hook.Join(all, func(h Hooks) func(OverdueInfo) { return h.Overdue }),
		Copy:     hook.Join(all, func(h Hooks) func(CopyInfo) { return h.Copy }),
	}
}
