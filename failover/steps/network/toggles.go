package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/failover"
)

// toggles are several things that one step puts into one state, and back to what each was in before.
type toggles struct {
	names []string
	want  string
	// is reports whether a thing in a state counts as wanted; nil compares.
	is func(state string) bool
	// read returns the state of each of names. A thing that cannot be put into the wanted state, or does not exist, is in blocked with the reason.
	read func(ctx context.Context) (states map[string]string, blocked []string, err error)
	set  func(ctx context.Context, name, state string) error
}

// savedKey is the key of what a step saves.
const savedKey = "before"

// saved is what do found, and whether undo has put it back since.
type saved struct {
	Before map[string]string `json:"before"`
	Undone bool              `json:"undone,omitempty"`
}

func (g *toggles) reached(state string) bool {
	if g.is != nil {
		return g.is(state)
	}
	return state == g.want
}

// look compares what is with what is wanted, and with what was before.
func (g *toggles) look(ctx context.Context) (obs failover.Observation, states map[string]string, past saved, err error) {
	states, blocked, err := g.read(ctx)
	if err != nil {
		return obs, nil, past, err
	}
	if _, err := failover.Load(ctx, savedKey, &past); err != nil {
		return obs, nil, past, err
	}
	wanted, ours := 0, 0
	var parts []string
	for _, name := range g.names {
		if g.reached(states[name]) {
			wanted++
			// What was so already is not this run's doing.
			if was, ok := past.Before[name]; ok && !g.reached(was) {
				ours++
			}
		}
		if state, ok := states[name]; ok {
			parts = append(parts, name+" "+state)
		}
	}
	obs.Detail = strings.Join(append(parts, blocked...), ", ")
	switch {
	case wanted == len(g.names) && past.Undone && ours == 0:
		obs.State, obs.Detail = failover.Pending, obs.Detail+"; it was so before"
	case wanted == len(g.names):
		obs.State = failover.Done
	case len(blocked) > 0:
		obs.State = failover.Blocked
	case ours > 0:
		obs.State = failover.Partial
	default:
		obs.State = failover.Pending
	}
	return obs, states, past, nil
}

func (g *toggles) observe(ctx context.Context) (failover.Observation, error) {
	obs, _, _, err := g.look(ctx)
	return obs, err
}

// do saves what is there before it changes it. What an interrupted Do saved stays while anything of it is in effect.
func (g *toggles) do(ctx context.Context) error {
	obs, states, past, err := g.look(ctx)
	if err != nil {
		return err
	}
	if obs.State == failover.Blocked {
		return fmt.Errorf("blocked: %s", obs.Detail)
	}
	if obs.State == failover.Pending || past.Before == nil || past.Undone {
		if err := failover.Save(ctx, savedKey, saved{Before: states}); err != nil {
			return err
		}
	}
	for _, name := range g.names {
		if g.reached(states[name]) {
			continue
		}
		failover.Report(ctx, name+" "+g.want)
		if err := g.set(ctx, name, g.want); err != nil {
			return err
		}
	}
	return nil
}

// undo puts back what do changed, and nothing else.
func (g *toggles) undo(ctx context.Context) error {
	_, states, past, err := g.look(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(past.Before)) {
		// Do set it if it is as wanted now and was not before; if it is neither, somebody else has set it since.
		if was := past.Before[name]; g.reached(states[name]) && !g.reached(was) {
			if err := g.set(ctx, name, was); err != nil {
				errs = append(errs, fmt.Errorf("put %s back to %s: %w", name, was, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// Without anything saved do had not begun: what is there is of somebody else.
	past.Undone = true
	return failover.Save(ctx, savedKey, past)
}
