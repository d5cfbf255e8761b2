package runbook

import (
	"errors"
	"net"
	"net/url"
	"strings"

	"github.com/understudy-dr/understudy/failover"
)

// list collects the steps of a plan, and what is wrong with them.
type list struct {
	steps []failover.Step
	errs  []error
}

// add takes a step as its func returns it.
func (l *list) add(s failover.Step, err error) {
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.steps = append(l.steps, s)
}

// all takes several steps as their func returns them.
func (l *list) all(s []failover.Step, err error) {
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.steps = append(l.steps, s...)
}

// ask adds a person's task.
func (l *list) ask(name, text, reference string, p failover.Prompt) {
	p.Text = text
	l.steps = append(l.steps, failover.Ask(name, p, failover.Description{Action: text, Reference: reference}))
}

func (l *list) err() error { return errors.Join(l.errs...) }

// plan is the list as the configuration of a plan.
func (l *list) plan(p failover.PlanConfig) (failover.PlanConfig, error) {
	if err := l.err(); err != nil {
		return failover.PlanConfig{}, err
	}
	p.Steps = l.steps
	return p, nil
}

// hostOf is the host of an endpoint, with or without scheme and port.
func hostOf(endpoint string) string {
	if strings.Contains(endpoint, "://") {
		if u, err := url.Parse(endpoint); err == nil {
			return u.Hostname()
		}
	}
	if host, _, err := net.SplitHostPort(endpoint); err == nil {
		return host
	}
	return endpoint
}

// clusterName reports whether a name fits into those of steps.
func clusterName(name string) bool {
	return name != "" && len(name) <= 40 && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && name[0] != '-' && name[len(name)-1] != '-'
}
