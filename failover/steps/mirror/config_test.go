package mirror_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// What is wrong with a Config is named by its field, before anything is contacted.
func TestBadConfigsNameTheirField(t *testing.T) {
	good := fakePair(t)
	with := func(change func(*mirror.Pair)) mirror.Pair {
		p := good
		change(&p)
		return p
	}
	gate, control := &fileGate{filepath.Join(t.TempDir(), "gate")}, fileControl(t.TempDir())
	path := filepath.Join(t.TempDir(), "report")
	nothing := func(context.Context) error { return nil }
	for _, c := range []struct {
		field string
		make  func() (failover.Step, error)
	}{
		{"QuiesceConfig.Pair.Mirror", func() (failover.Step, error) {
			return mirror.Quiesce(mirror.QuiesceConfig{Pair: with(func(p *mirror.Pair) { p.Mirror = "A B" }), Gate: gate})
		}},
		{"QuiesceConfig.Pair.Primary", func() (failover.Step, error) {
			return mirror.Quiesce(mirror.QuiesceConfig{Pair: with(func(p *mirror.Pair) { p.Primary = nil }), Gate: gate})
		}},
		{"QuiesceConfig.Gate", func() (failover.Step, error) { return mirror.Quiesce(mirror.QuiesceConfig{Pair: good}) }},
		{"QuiesceConfig.Gate", func() (failover.Step, error) {
			return mirror.Quiesce(mirror.QuiesceConfig{Pair: good, Gate: mirror.GateFuncs{Text: "x", DoClose: nothing}})
		}},
		{"QuiesceConfig.Window", func() (failover.Step, error) {
			return mirror.Quiesce(mirror.QuiesceConfig{Pair: good, Gate: gate, Window: time.Hour})
		}},
		{"QuiesceConfig.Attempts", func() (failover.Step, error) {
			return mirror.Quiesce(mirror.QuiesceConfig{Pair: good, Gate: gate, Attempts: -1})
		}},
		{"ReopenConfig.Gate", func() (failover.Step, error) { return mirror.Reopen(mirror.ReopenConfig{}) }},
		{"DrainConfig.Pair.Standby", func() (failover.Step, error) {
			return mirror.Drain(mirror.DrainConfig{Pair: with(func(p *mirror.Pair) { p.Standby = nil })})
		}},
		{"DrainConfig.Pair.Primary and Pair.Standby", func() (failover.Step, error) {
			return mirror.Drain(mirror.DrainConfig{Pair: with(func(p *mirror.Pair) { p.Standby = p.Primary })})
		}},
		{"DrainConfig.Guarded", func() (failover.Step, error) { return mirror.Drain(mirror.DrainConfig{Pair: good, Guarded: -1}) }},
		{"DrainConfig.Timeout", func() (failover.Step, error) { return mirror.Drain(mirror.DrainConfig{Pair: good, Timeout: -1}) }},
		{"StopMirrorConfig.Control", func() (failover.Step, error) { return mirror.StopMirror(mirror.StopMirrorConfig{Pair: good}) }},
		{"StopMirrorConfig.Control", func() (failover.Step, error) {
			return mirror.StopMirror(mirror.StopMirrorConfig{Pair: good, Control: mirror.ControlFuncs{Text: "x"}})
		}},
		{"StartReverseConfig.Control", func() (failover.Step, error) {
			c := control
			c.Text = ""
			return mirror.StartReverse(mirror.StartReverseConfig{Pair: good, Control: c})
		}},
		{"DifferenceReportConfig.Path", func() (failover.Step, error) {
			return mirror.StartReverse(mirror.StartReverseConfig{Pair: good, Control: control, Differences: &mirror.DifferenceReportConfig{Pair: good}})
		}},
		{"EpochFenceConfig.Pair.Records", func() (failover.Step, error) {
			return mirror.EpochFence(mirror.EpochFenceConfig{Pair: with(func(p *mirror.Pair) { p.Records = nil })})
		}},
		{"EpochFenceConfig.Pair.Keys.KeepID", func() (failover.Step, error) {
			return mirror.EpochFence(mirror.EpochFenceConfig{Pair: with(func(p *mirror.Pair) { p.Keys.Keep = keep })})
		}},
		{"RevisionFenceConfig.Margin", func() (failover.Step, error) {
			return mirror.RevisionFence(mirror.RevisionFenceConfig{Pair: good, Margin: -1})
		}},
		{"RevisionFenceConfig.Clients", func() (failover.Step, error) {
			return mirror.RevisionFence(mirror.RevisionFenceConfig{Pair: good, Clients: 10_000})
		}},
		{"RevisionFenceConfig.Pair.RequestTimeout", func() (failover.Step, error) {
			return mirror.RevisionFence(mirror.RevisionFenceConfig{Pair: with(func(p *mirror.Pair) { p.RequestTimeout = -1 })})
		}},
		{"VerdictGateConfig.Verdicts", func() (failover.Step, error) { return mirror.VerdictGate(mirror.VerdictGateConfig{Pair: good}) }},
		{"VerdictGateConfig.Surplus", func() (failover.Step, error) {
			return mirror.VerdictGate(mirror.VerdictGateConfig{Pair: good, Verdicts: fakeVerdicts{}, Surplus: -1})
		}},
		{"DifferenceReportConfig.Path", func() (failover.Step, error) {
			return mirror.DifferenceReport(mirror.DifferenceReportConfig{Pair: good, Path: "/no/such/folder/report"})
		}},
		{"DifferenceReportConfig.Values", func() (failover.Step, error) {
			return mirror.DifferenceReport(mirror.DifferenceReportConfig{Pair: good, Path: path, Values: path})
		}},
	} {
		step, err := c.make()
		var detailed *failover.Error
		if step != nil || !errors.Is(err, failover.ErrConfig) || !errors.As(err, &detailed) || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: %v", c.field, err)
			continue
		}
		if detailed.Hint == "" {
			t.Errorf("%s: no hint: %v", c.field, err)
		}
	}
	if _, err := mirror.AlarmGate(mirror.AlarmGateConfig{}); !errors.Is(err, failover.ErrConfig) {
		t.Errorf("AlarmGate: %v", err)
	}
}

// A setting that decides what a step does is covered by the plan's hash.
func TestSettingsAreInTheHash(t *testing.T) {
	pair, gate := fakePair(t), &fileGate{filepath.Join(t.TempDir(), "gate")}
	hash := func(mode failover.Mode, steps ...failover.Step) string { return plan(t, mode, steps...).Hash() }
	verdict := func(cfg mirror.VerdictGateConfig) failover.Step {
		cfg.Pair, cfg.Verdicts = pair, fakeVerdicts{}
		return must(mirror.VerdictGate(cfg))
	}
	fence := func(cfg mirror.RevisionFenceConfig) failover.Step {
		cfg.Pair = pair
		return must(mirror.RevisionFence(cfg))
	}
	other := pair
	other.Keys.Keep, other.Keys.KeepID = keep, "other"
	for name, two := range map[string][2]string{
		"MaxAge":           {hash("", verdict(mirror.VerdictGateConfig{})), hash("", verdict(mirror.VerdictGateConfig{MaxAge: time.Hour}))},
		"Missed":           {hash("", verdict(mirror.VerdictGateConfig{})), hash("", verdict(mirror.VerdictGateConfig{Missed: 1}))},
		"Margin":           {hash("", fence(mirror.RevisionFenceConfig{})), hash("", fence(mirror.RevisionFenceConfig{Margin: 7}))},
		"MarginUngraceful": {hash(failover.ModeUngraceful, fence(mirror.RevisionFenceConfig{})), hash(failover.ModeUngraceful, fence(mirror.RevisionFenceConfig{MarginUngraceful: 7}))},
		"Limit":            {hash("", fence(mirror.RevisionFenceConfig{})), hash("", fence(mirror.RevisionFenceConfig{Limit: 7}))},
		"filter":           {hash("", must(mirror.EpochFence(mirror.EpochFenceConfig{Pair: pair}))), hash("", must(mirror.EpochFence(mirror.EpochFenceConfig{Pair: other})))},
		"incomplete": {hash(failover.ModeUngraceful, must(mirror.EpochFence(mirror.EpochFenceConfig{Pair: pair}))),
			hash(failover.ModeUngraceful, must(mirror.EpochFence(mirror.EpochFenceConfig{Pair: pair, RequireComplete: true})))},
		"Window": {hash("", must(mirror.Quiesce(mirror.QuiesceConfig{Pair: pair, Gate: gate}))), hash("", must(mirror.Quiesce(mirror.QuiesceConfig{Pair: pair, Gate: gate, Window: time.Millisecond})))},
	} {
		if two[0] == two[1] {
			t.Errorf("%s does not change the hash", name)
		}
	}
}
