package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/failover"
)

// approveFlags are the settings of failover approve.
type approveFlags struct {
	settings                               *connect.Settings
	journal, hash, step, role, by, comment string
	acceptLoss                             string
	reject, confirm, undone                bool
	validFor                               time.Duration
}

func newApproveFlags() *approveFlags {
	f := &approveFlags{settings: connect.NewSettings(envPrefix)}
	fs := f.settings.Flags
	journalVar(f.settings, &f.journal)
	byVar(f.settings, &f.by)
	fs.StringVar(&f.hash, "hash", "", "`hash` of the plan that was looked at, or its first 12 or more characters; before the run has begun all of it")
	fs.StringVar(&f.step, "step", "", "`name` of the step; empty: the plan as a whole")
	fs.StringVar(&f.role, "role", "", "`role` in which is decided")
	fs.StringVar(&f.comment, "comment", "", "`text` for the record")
	fs.BoolVar(&f.reject, "reject", false, "reject instead of approving")
	fs.StringVar(&f.acceptLoss, "accept-loss", "", "accept the `loss` that a gate states, word for word")
	fs.BoolVar(&f.confirm, "confirm", false, "the step's task was carried out")
	fs.BoolVar(&f.undone, "undone", false, "the step's task was taken back")
	fs.DurationVar(&f.validFor, "valid-for", 0, "how long the decision is good; 0: as long as the plan allows")
	f.settings.FlagOnly("hash", "step", "role", "comment", "reject", "accept-loss", "confirm", "undone", "valid-for")
	return f
}

// kind is what is decided.
func (f *approveFlags) kind() (failover.DecisionKind, error) {
	kinds := map[failover.DecisionKind]bool{failover.DecisionReject: f.reject, failover.DecisionAccept: f.acceptLoss != "", failover.DecisionConfirm: f.confirm, failover.DecisionUndone: f.undone}
	kind := failover.DecisionApprove
	for k, given := range kinds {
		switch {
		case !given:
		case kind != failover.DecisionApprove:
			return "", connect.Usage("--reject, --accept-loss, --confirm, --undone", "more than one is given", "give one of them; none approves")
		default:
			kind = k
		}
	}
	return kind, nil
}

// runApprove is failover approve.
func runApprove(_ context.Context, c program.Console, args []string) error {
	f := newApproveFlags()
	if err := f.settings.Parse(args, os.LookupEnv); err != nil {
		return err
	}
	if err := needJournal(f.settings, f.journal); err != nil {
		return err
	}
	kind, err := f.kind()
	if err != nil {
		return err
	}
	if f.validFor < 0 {
		return connect.Usage("--valid-for", fmt.Sprintf("%v is negative", f.validFor), "give a duration such as 30m")
	}
	hash, err := f.planHash()
	if err != nil {
		return err
	}
	d := failover.Decision{Kind: kind, PlanHash: hash, Step: f.step, By: f.by, Role: f.role, Loss: f.acceptLoss, Comment: f.comment, At: time.Now()}
	if f.validFor > 0 {
		d.Expires = d.At.Add(f.validFor)
	}
	if d, err = failover.Decide(f.journal, d); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Out, "%s by %s: %s of plan %s, left for the runner as %s\n", d.Kind, d.By, cmp.Or(d.Step, "all"), failover.ShortHash(hash), d.ID)
	return err
}

// planHash is the whole hash of the plan that the flag means. A person has to name it: it is what they have looked at.
func (f *approveFlags) planHash() (string, error) {
	log, err := failover.ReadJournal(f.journal)
	if err != nil {
		// Before the run has begun there is no plan to compare with: the runner will.
		if len(f.hash) == hashLength {
			return f.hash, nil
		}
		return "", connect.Usage("--hash", "the journal "+f.journal+" has no run yet, so that all of the hash is needed", "copy it from failover plan")
	}
	hash := log.Hash()
	switch {
	case f.hash == "":
		waiting := "nothing"
		if w := log.Status().Waiting; w != nil {
			waiting = waitingText(*w)
			if command := decideCommand(f.journal, hash, *w); command != "" {
				waiting += ": " + command
			}
		}
		return "", connect.Usage("--hash", "is missing", "look at the plan, and name its hash. The run waits for "+waiting)
	case len(f.hash) < len(failover.ShortHash(hash)):
		return "", connect.Usage("--hash", fmt.Sprintf("%q is too short", f.hash), "give at least 12 characters")
	case !strings.HasPrefix(hash, f.hash):
		return "", connect.Usage("--hash", fmt.Sprintf("the journal's plan is %s", failover.ShortHash(hash)), "look at that plan, and decide on it")
	}
	return hash, nil
}

// decider is the default of --by.
func decider() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}
