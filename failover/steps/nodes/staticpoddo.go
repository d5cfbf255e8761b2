package nodes

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// remember saves which containers ran when the step began to act: after a crash another that runs shows that it has acted.
func (p staticPod) remember(ctx context.Context) (s sight, old []string, err error) {
	if s, err = p.look(ctx); err != nil {
		return s, nil, err
	}
	var undone bool
	if _, err := failover.Load(ctx, savedUndone, &undone); err != nil {
		return s, nil, err
	}
	saved, err := failover.Load(ctx, savedContainers, &old)
	if err != nil || saved && !undone {
		return s, old, err
	}
	if undone { // and now done again
		if err := failover.Save(ctx, savedUndone, false); err != nil {
			return s, nil, err
		}
	}
	old = []string{}
	for _, c := range s.running {
		old = append(old, c.id)
	}
	return s, old, failover.Save(ctx, savedContainers, old)
}

// Restart restarts a static pod on one host, within a step of another kind, and waits until it is ready; cfg.Hosts, Name and Reference are not used. It remembers nothing:
// called again after an interruption it restarts again.
func Restart(ctx context.Context, h Host, cfg StaticPodConfig) error {
	cfg.Hosts = []Host{h}
	if err := cfg.check("restart"); err != nil {
		return err
	}
	p := staticPod{cfg: cfg, host: h, container: cfg.Container, manifest: cfg.Manifest, crictl: cfg.Crictl}
	s, err := p.look(ctx)
	if err != nil {
		return err
	}
	var old []string
	for _, c := range s.running {
		old = append(old, c.id)
	}
	if err := p.restart(ctx, s, old); err != nil {
		return err
	}
	return p.wait(ctx, "is ready again", func(s sight) (string, error) {
		if len(s.running) == 0 {
			return "it does not run", nil
		}
		if slices.ContainsFunc(s.running, func(c container) bool { return slices.Contains(old, c.id) }) {
			return "the old container runs yet", nil
		}
		return p.ready(ctx)
	})
}

func (p staticPod) doRestart(ctx context.Context) error {
	s, old, err := p.remember(ctx)
	if err != nil {
		return err
	}
	if err := p.restart(ctx, s, old); err != nil {
		return err
	}
	return p.waitRestarted(ctx)
}

// restart ends the old containers.
func (p staticPod) restart(ctx context.Context, s sight, old []string) error {
	isOld := func(c container) bool { return slices.Contains(old, c.id) }
	if p.cfg.Way == RestartManifest {
		if !slices.ContainsFunc(s.running, isOld) && !s.away {
			return nil
		}
		if err := p.stop(ctx); err != nil {
			return err
		}
		return p.manifestBack(ctx)
	}
	if len(old) == 0 && len(s.running) == 0 {
		return failover.Permanent(fmt.Errorf("%s: there is no container %s that runs: find out why before it is restarted", p.host.Name(), p.container))
	}
	acted := len(s.running) == 0 // it went in a run that was interrupted before the kubelet was told
	for _, c := range s.running {
		if isOld(c) {
			if _, err := must(ctx, p.host, Command{Args: append(slices.Clone(p.crictl), "rm", "--force", c.id), Root: true}, nil); err != nil {
				return err
			}
			acted = true
		}
	}
	if !acted {
		return nil
	}
	_, err := must(ctx, p.host, Command{Args: []string{"systemctl", "restart", "kubelet.service"}, Root: true}, nil)
	return err
}

func (p staticPod) waitRestarted(ctx context.Context) error {
	return p.wait(ctx, "is ready again", func(sight) (string, error) {
		o, err := p.observeRestarted(ctx)
		if err != nil || o.State == failover.Done {
			return "", err
		}
		return o.Detail, nil
	})
}

func (p staticPod) stop(ctx context.Context) error {
	if err := p.manifestAway(ctx); err != nil {
		return err
	}
	return p.wait(ctx, "is gone", func(s sight) (string, error) {
		if len(s.running) > 0 {
			return "it runs yet", nil
		}
		return "", nil
	})
}

func (p staticPod) start(ctx context.Context) error {
	if err := p.manifestBack(ctx); err != nil {
		return err
	}
	return p.wait(ctx, "is ready", func(s sight) (string, error) {
		if len(s.running) == 0 {
			return "it does not run yet", nil
		}
		return p.ready(ctx)
	})
}

// moveScript moves a manifest unless it is there already. It replaces none.
const moveScript = `set -eu
if [ -e "$1" ] && [ -e "$2" ]; then echo "there are two manifests, $1 and $2: remove the one that does not count" >&2; exit 4; fi
[ -e "$1" ] || { [ -e "$2" ] && exit 0; echo "there is no manifest, neither $1 nor $2" >&2; exit 4; }
mv "$1" "$2"
sync "${2%/*}/"`

func (p staticPod) manifestAway(ctx context.Context) error {
	return p.move(ctx, p.manifest, p.away())
}

func (p staticPod) manifestBack(ctx context.Context) error {
	return p.move(ctx, p.away(), p.manifest)
}

func (p staticPod) move(ctx context.Context, from, to string) error {
	res, err := p.host.Run(ctx, Command{Args: []string{"/bin/sh", "-c", moveScript, "sh", from, to}, Root: true})
	if err := ended(p.host, res, err, nil); err != nil {
		return fmt.Errorf("move %s to %s: %w", from, to, err)
	}
	failover.Note(ctx, fmt.Sprintf("%s$ sudo mv %s %s", p.host.Name(), from, to))
	return nil
}

// wait looks until missing says nothing any more.
func (p staticPod) wait(ctx context.Context, what string, missing func(s sight) (string, error)) error {
	tick := time.NewTicker(p.cfg.Poll)
	defer tick.Stop()
	last := "it was not looked at"
	for {
		why := ""
		s, err := p.look(ctx)
		if err == nil {
			why, err = missing(s)
		}
		switch {
		case err == nil && why == "":
			return nil
		case err != nil && ctx.Err() != nil:
			why = last
		case err != nil:
			why = NewMasker().Mask(err.Error()) // a node may be slow to answer meanwhile
		}
		last = why
		failover.Report(ctx, fmt.Sprintf("wait until %s of %s %s: %s", p.container, p.host.Name(), what, why))
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %s did not become so that it %s: %s: %w", p.host.Name(), p.container, what, why, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
