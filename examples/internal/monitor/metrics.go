package monitor

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// states are all states of a mirror.
var states = []etcdmirror.State{
	etcdmirror.StateIdle, etcdmirror.StateStarting, etcdmirror.StateReplica, etcdmirror.StateBaseCopy, etcdmirror.StateResync,
	etcdmirror.StateCatchingUp, etcdmirror.StateTail, etcdmirror.StateWaiting, etcdmirror.StateStopped,
}

// metric is a number that is read when Prometheus asks.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(m *Monitor, s etcdmirror.Status) float64
}

func newMetric(kind prometheus.ValueType, name, help string, value func(*Monitor, etcdmirror.Status) float64) metric {
	return metric{prometheus.NewDesc("understudy_mirror_"+name, help, nil, nil), kind, value}
}

func gauge(name, help string, value func(etcdmirror.Status) float64) metric {
	return newMetric(prometheus.GaugeValue, name, help, func(_ *Monitor, s etcdmirror.Status) float64 { return value(s) })
}

func counter(name, help string, value func(etcdmirror.Status) int64) metric {
	return newMetric(prometheus.CounterValue, name, help, func(_ *Monitor, s etcdmirror.Status) float64 { return float64(value(s)) })
}

var stateDesc = prometheus.NewDesc("understudy_mirror_state", "What the mirror is doing: 1 for its state, 0 for all others.", []string{"state"}, nil)

var metrics = []metric{
	newMetric(prometheus.GaugeValue, "leading", "1 if this instance is the one that writes.", func(m *Monitor, s etcdmirror.Status) float64 { return oneIf(m.cfg.Events.leads(s)) }),
	gauge("epoch", "Raised by each promotion and demotion of the target.", func(s etcdmirror.Status) float64 { return float64(s.Epoch) }),
	gauge("source_revision", "Highest source revision seen.", func(s etcdmirror.Status) float64 { return float64(s.SourceRevision) }),
	gauge("applied_revision", "Source revision that the target equals; 0 before the base copy is done.", func(s etcdmirror.Status) float64 { return float64(s.AppliedRevision) }),
	gauge("saved_revision", "Applied revision that the checkpoint at the target has.", func(s etcdmirror.Status) float64 { return float64(s.SavedRevision) }),
	gauge("target_revision", "Target revision of the mirror's last transaction.", func(s etcdmirror.Status) float64 { return float64(s.TargetRevision) }),
	gauge("lag_revisions", "Source revisions seen and not applied.", func(s etcdmirror.Status) float64 { return float64(s.LagRevisions) }),
	gauge("lag_seconds", "How long the applied revision has been behind the source's.", func(s etcdmirror.Status) float64 { return s.LagDuration.Seconds() }),
	gauge("source_contact_age_seconds", "Time since the source last answered; +Inf if it never did. An instance that waits for another to end does not ask it.", func(s etcdmirror.Status) float64 { return age(s.SourceContact) }),
	gauge("target_contact_age_seconds", "Time since the target last answered; +Inf if it never did.", func(s etcdmirror.Status) float64 { return age(s.TargetContact) }),
	gauge("keys", "Keys that the mirror holds at the target.", func(s etcdmirror.Status) float64 { return float64(s.Keys) }),
	gauge("foreign_keys", "Keys of the kept space that the target's own cluster made.", func(s etcdmirror.Status) float64 { return float64(s.Foreign) }),
	gauge("guarded_keys", "Keys whose value is kept from the target.", func(s etcdmirror.Status) float64 { return float64(s.Guarded) }),
	gauge("drifted_keys", "Mirrored keys that others changed or deleted at the target, up to 10,000.", func(s etcdmirror.Status) float64 { return float64(s.Drifted) }),
	gauge("drift_unlisted", "1 if more keys have drifted than are listed.", func(s etcdmirror.Status) float64 { return oneIf(s.Unlisted) }),
	gauge("leases", "Leases that the mirror keeps at the target for the source's.", func(s etcdmirror.Status) float64 { return float64(s.Leases) }),
	gauge("tripped", "1 while a mass deletion at the source stops the mirror, until mirror approve.", func(s etcdmirror.Status) float64 { return oneIf(s.Trip != nil) }),
	counter("puts_total", "Keys put at the target.", func(s etcdmirror.Status) int64 { return s.Puts }),
	counter("deletes_total", "Keys deleted at the target.", func(s etcdmirror.Status) int64 { return s.Deletes }),
	counter("written_bytes_total", "Bytes of keys and values written to the target.", func(s etcdmirror.Status) int64 { return s.Bytes }),
	counter("filtered_total", "Source keys and events that the rules dropped.", func(s etcdmirror.Status) int64 { return s.Filtered }),
	counter("transactions_total", "Transactions committed at the target.", func(s etcdmirror.Status) int64 { return s.Transactions }),
	counter("splits_total", "Source revisions applied in parts because the target's limits are smaller.", func(s etcdmirror.Status) int64 { return s.Splits }),
	counter("resyncs_total", "Base copies and resyncs begun.", func(s etcdmirror.Status) int64 { return s.Resyncs }),
	counter("reconnects_total", "Watches of the source opened again.", func(s etcdmirror.Status) int64 { return s.Reconnects }),
	counter("repairs_total", "Keys put back that others had changed or deleted at the target.", func(s etcdmirror.Status) int64 { return s.Repairs }),
	counter("fights_total", "Keys of which repairing was given up, because somebody keeps changing them.", func(s etcdmirror.Status) int64 { return s.Fights }),
}

// mirrorCollector turns the mirror's status into metrics when Prometheus asks.
type mirrorCollector struct{ *Monitor }

// Describe is for Prometheus.
func (c mirrorCollector) Describe(to chan<- *prometheus.Desc) {
	to <- stateDesc
	for _, m := range metrics {
		to <- m.desc
	}
}

// Collect is for Prometheus.
func (c mirrorCollector) Collect(to chan<- prometheus.Metric) {
	s := c.cfg.Status()
	for _, state := range states {
		to <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, oneIf(s.State == state), string(state))
	}
	for _, m := range metrics {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(c.Monitor, s))
	}
}

// age is how long ago something was. What never was is infinitely long ago, so that an alert on a great age sees it.
func age(at time.Time) float64 {
	if at.IsZero() {
		return math.Inf(1)
	}
	return max(time.Since(at).Seconds(), 0)
}

func oneIf(condition bool) float64 {
	if condition {
		return 1
	}
	return 0
}
