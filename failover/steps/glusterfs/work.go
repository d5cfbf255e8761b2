package glusterfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// savedFormer is what the volumes had before the step: by their options, with the names of the volumes.
const savedFormer = "former"

// commandTimeout bounds one command: glusterd waits up to two minutes for peers that do not answer.
const commandTimeout = 150 * time.Second

func (c Cluster) command(args ...string) nodes.Command {
	argv := slices.Concat(c.Exec, []string{"gluster", "--mode=script"}, c.Options, args)
	return nodes.Command{Args: argv, Root: !c.User, Timeout: commandTimeout}
}

// set sets the options that q has, with one command: a volume never has the one without the other.
func (c Cluster) set(volume string, q Quorum) nodes.Command {
	args := []string{"volume", "set", volume}
	if q.Type != "" {
		args = append(args, optionType, q.Type)
	}
	if q.Count != "" {
		args = append(args, optionCount, q.Count)
	}
	return c.command(args...)
}

// change are the commands that bring a volume's options to what they are to be.
func (c Cluster) change(volume string, now, want Quorum) (all []nodes.Command) {
	var set Quorum
	if want.Type != now.Type {
		set.Type = want.Type
	}
	if want.Count != now.Count {
		set.Count = want.Count
	}
	if set != (Quorum{}) {
		all = append(all, c.set(volume, set))
	}
	// The type goes first: a fixed quorum without a count would be one of none.
	if want.Type == "" && now.Type != "" {
		all = append(all, c.command("volume", "reset", volume, optionType))
	}
	if want.Count == "" && now.Count != "" {
		all = append(all, c.command("volume", "reset", volume, optionCount))
	}
	return all
}

// ask runs a command that only looks.
func (c Cluster) ask(ctx context.Context, args ...string) (text string, cut bool, err error) {
	res, err := c.Host.Run(ctx, c.command(append([]string{"--xml"}, args...)...))
	if err != nil {
		return "", false, err
	}
	if res.Exit != 0 {
		if _, err := parse(res.Stdout); err != nil && res.Stdout != "" {
			return "", false, fmt.Errorf("%s: gluster %s: %w", c.Host.Name(), strings.Join(args, " "), err)
		}
		return "", false, fmt.Errorf("%s: gluster %s ended with status %d: %s", c.Host.Name(), strings.Join(args, " "), res.Exit, lastLine(res))
	}
	return res.Stdout, res.Truncated, nil
}

func lastLine(res nodes.Result) string {
	text := strings.TrimSpace(nodes.NewMasker().Mask(res.Stderr + "\n" + res.Stdout))
	if line, _, more := strings.Cut(text, "\n"); more {
		return line
	}
	return text
}

// look reads the options of the volumes that the step is about.
func (c Cluster) look(ctx context.Context) (map[string]Quorum, error) {
	text, cut, err := c.ask(ctx, "volume", "info")
	if err != nil {
		return nil, err
	}
	all := map[string]Quorum{}
	if cut { // very many volumes: one by one
		if text, cut, err = c.ask(ctx, "volume", "list"); err != nil {
			return nil, err
		}
		if cut {
			return nil, failover.Permanent(errors.New("the list of volumes is too long: name those that count (Cluster.Volumes)"))
		}
		names, err := parseList(text)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if c.Volumes != nil && !slices.Contains(c.Volumes, name) {
				continue
			}
			if text, _, err = c.ask(ctx, "volume", "info", name); err != nil {
				return nil, err
			}
			one, err := parseInfo(text)
			if err != nil {
				return nil, err
			}
			maps.Copy(all, one)
		}
	} else if all, err = parseInfo(text); err != nil {
		return nil, err
	}
	if c.Volumes == nil {
		return all, nil
	}
	some := map[string]Quorum{}
	for _, name := range c.Volumes {
		if q, ok := all[name]; ok {
			some[name] = q
		}
	}
	return some, nil
}

// work is a step that brings volumes to options.
type work struct {
	cluster Cluster
	// want is what a volume is to have; false leaves it as it is.
	want   func(volume string) (Quorum, bool)
	export string
}

func (w work) step(name string, timeout time.Duration, d failover.Description) failover.Step {
	d.Undo = "Put back what each volume had before the step; options that were not set are reset"
	return failover.Funcs{Name: name, Description: d, Timeout: timeout, Observe: w.observe, Do: w.do, Undo: w.undo}.Step()
}

func (w work) former(ctx context.Context) (map[string]Quorum, error) {
	var saved map[string][]string
	if _, err := failover.Load(ctx, savedFormer, &saved); err != nil {
		return nil, err
	}
	all := map[string]Quorum{}
	for key, names := range saved {
		kind, number, _ := strings.Cut(key, " ")
		for _, name := range names {
			all[name] = Quorum{kind, number}
		}
	}
	return all, nil
}

func save(ctx context.Context, former map[string]Quorum) error {
	saved := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(former)) {
		key := former[name].Type + " " + former[name].Count
		saved[key] = append(saved[key], name)
	}
	return failover.Save(ctx, savedFormer, saved)
}

func (w work) observe(ctx context.Context) (failover.Observation, error) {
	now, err := w.cluster.look(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	former, err := w.former(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	var missing, open, left []string
	for _, name := range w.cluster.Volumes {
		if _, ok := now[name]; !ok {
			missing = append(missing, name)
		}
	}
	changed := false
	for _, name := range slices.Sorted(maps.Keys(now)) {
		want, ok := w.want(name)
		if !ok {
			left = append(left, name)
			continue
		}
		if now[name] != want {
			open = append(open, fmt.Sprintf("%s has %s", name, now[name]))
		}
		if was, known := former[name]; known && now[name] != was {
			changed = true
		}
	}
	detail := fmt.Sprintf("%d of %d volumes have the options", len(now)-len(left)-len(open), len(now)-len(left))
	if len(open) > 0 {
		detail += "; " + some(open)
	}
	if len(left) > 0 {
		detail += "; left as they are: " + some(left)
	}
	switch {
	case len(missing) > 0:
		return failover.Observation{State: failover.Blocked, Detail: "there is no volume " + some(missing)}, nil
	case len(now) == 0:
		return failover.Observation{State: failover.Blocked, Detail: "there are no volumes"}, nil
	case len(open) == 0:
		return failover.Observation{State: failover.Done, Detail: detail}, nil
	case changed:
		return failover.Observation{State: failover.Partial, Detail: detail}, nil
	}
	// As it was before the step, where others may have had the options already.
	return failover.Observation{State: failover.Pending, Detail: detail}, nil
}

// some are the first of many.
func some(all []string) string {
	if len(all) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:5], ", "), len(all)-5)
	}
	return strings.Join(all, ", ")
}

func (w work) do(ctx context.Context) error {
	now, err := w.cluster.look(ctx)
	if err != nil {
		return err
	}
	former, err := w.former(ctx)
	if err != nil {
		return err
	}
	grown := false
	for name, q := range now {
		if _, known := former[name]; !known { // also one that was made since an interruption
			former[name], grown = q, true
		}
	}
	if grown {
		if err := save(ctx, former); err != nil {
			return err
		}
	}
	if w.export != "" {
		if err := writeExport(w.export, former, w.want); err != nil {
			return err
		}
	}
	return w.bring(ctx, now, w.want)
}

func (w work) undo(ctx context.Context) error {
	former, err := w.former(ctx)
	if err != nil {
		return err
	}
	now, err := w.cluster.look(ctx)
	if err != nil {
		return err
	}
	return w.bring(ctx, now, func(volume string) (Quorum, bool) {
		q, ok := former[volume]
		return q, ok
	})
}

// bring changes the volumes that need it, and goes on with the others when one fails: each that takes writes again counts.
func (w work) bring(ctx context.Context, now map[string]Quorum, want func(volume string) (Quorum, bool)) error {
	var errs []error
	names := slices.Sorted(maps.Keys(now))
	for i, name := range names {
		to, ok := want(name)
		if !ok || to == now[name] {
			continue
		}
		failover.Report(ctx, fmt.Sprintf("volume %d of %d, %s", i+1, len(names), name))
		for _, cmd := range w.cluster.change(name, now[name], to) {
			res, err := w.cluster.Host.Run(ctx, cmd)
			if err == nil && res.Exit != 0 {
				err = fmt.Errorf("status %d: %s", res.Exit, lastLine(res))
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: volume %s: %w", w.cluster.Host.Name(), name, err))
				break
			}
			failover.Note(ctx, w.cluster.Host.Name()+"$ "+nodes.NewMasker().Mask(cmd.String()))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}
