package monitor

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/etcdmirror"
)

// Events counts what a mirror's hooks tell and its status does not. Make one with NewEvents before the mirror.
type Events struct {
	terms, guarded, trips prometheus.Counter
	drift, leases         *prometheus.CounterVec
	seconds               prometheus.Histogram

	mu      sync.Mutex
	replica string // this instance's name, once it has led
}

// NewEvents returns counts of nothing.
func NewEvents() *Events {
	count := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "understudy_mirror_" + name, Help: help})
	}
	counts := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "understudy_mirror_" + name, Help: help}, []string{label})
	}
	e := &Events{
		terms:   count("terms_total", "Times that this instance began to lead."),
		guarded: count("guarded_values_total", "Values that a guard kept from the target."),
		trips:   count("trips_total", "Times that a mass deletion at the source stopped the mirror."),
		drift:   counts("drift_total", "Mirrored keys that others touched at the target, by what happened: changed, deleted, replaced, fought or repaired.", "kind"),
		leases:  counts("lease_events_total", "Unusual events of mirrored leases: collided, lost, replaced or unread.", "kind"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "understudy_mirror_transaction_duration_seconds",
			Help: "How long the target took for a transaction.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
	for _, kind := range []etcdmirror.DriftKind{etcdmirror.DriftChanged, etcdmirror.DriftDeleted, etcdmirror.DriftReplaced, etcdmirror.DriftFought, etcdmirror.DriftRepaired} {
		e.drift.WithLabelValues(string(kind))
	}
	for _, kind := range []etcdmirror.LeaseKind{etcdmirror.LeaseCollided, etcdmirror.LeaseLost, etcdmirror.LeaseReplaced, etcdmirror.LeaseUnread} {
		e.leases.WithLabelValues(string(kind))
	}
	return e
}

// Hooks are for etcdmirror.Config.
func (e *Events) Hooks() etcdmirror.Hooks {
	return etcdmirror.Hooks{
		Leading: func(info etcdmirror.LeadingInfo) {
			e.terms.Inc()
			e.mu.Lock()
			defer e.mu.Unlock()
			e.replica = info.Replica
		},
		Applied: func(info etcdmirror.AppliedInfo) { e.seconds.Observe(info.Duration.Seconds()) },
		Guarded: func(etcdmirror.GuardedInfo) { e.guarded.Inc() },
		Drift:   func(info etcdmirror.DriftInfo) { e.drift.WithLabelValues(string(info.Kind)).Inc() },
		Lease:   func(info etcdmirror.LeaseInfo) { e.leases.WithLabelValues(string(info.Kind)).Inc() },
		Tripped: func(etcdmirror.Trip) { e.trips.Inc() },
	}
}

func (e *Events) collectors() []prometheus.Collector {
	return []prometheus.Collector{e.terms, e.guarded, e.trips, e.drift, e.leases, e.seconds}
}

// leads reports whether this instance leads. The status names the leader, which was this one if it has led under that name and does not wait for another.
func (e *Events) leads(s etcdmirror.Status) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.replica != "" && s.Leader == e.replica && s.State != etcdmirror.StateReplica && s.State != etcdmirror.StateStopped
}
