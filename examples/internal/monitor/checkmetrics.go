package monitor

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/drcheck"
)

func checkDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("understudy_check_"+name, help, labels, nil)
}

var (
	lastOutcomeDesc = checkDesc("last_outcome", "How the last comparison of source and target ended: 1 for its outcome, 0 for the others; all 0 before the first.", "outcome")
	runsDesc        = checkDesc("runs_total", "Comparisons by outcome.", "outcome")
	differencesDesc = checkDesc("differences", "Keys that differ by the last comparison that came to a result.", "class")
	acceptedDesc    = checkDesc("accepted_differences", "Keys of the last comparison that differ and are accepted.")
	comparedDesc    = checkDesc("compared_keys", "Keys that took part in the last comparison that came to a result.", "side")
	durationDesc    = checkDesc("last_duration_seconds", "How long the last comparison took that came to a result; 0 before.")
	finishedAgeDesc = checkDesc("last_finished_age_seconds", "Time since a comparison last came to a result; +Inf before the first.")
	equalAgeDesc    = checkDesc("last_equal_age_seconds", "Time since source and target were last found equal; +Inf if they never were.")
	runningDesc     = checkDesc("running", "1 while source and target are being compared.")
)

// Describe is for Prometheus.
func (c *Checks) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{lastOutcomeDesc, runsDesc, differencesDesc, acceptedDesc, comparedDesc, durationDesc, finishedAgeDesc, equalAgeDesc, runningDesc} {
		to <- desc
	}
}

// Collect is for Prometheus.
func (c *Checks) Collect(to chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for _, o := range outcomes {
		gauge(lastOutcomeDesc, oneIf(c.last == o), string(o))
		to <- prometheus.MustNewConstMetric(runsDesc, prometheus.CounterValue, float64(c.totals[o]), string(o))
	}
	var r drcheck.Result
	if c.result != nil {
		r = *c.result
	}
	for class, n := range map[drcheck.Class]int{drcheck.Missed: r.Count.Missed, drcheck.Surplus: r.Count.Surplus, drcheck.Different: r.Count.Different} {
		gauge(differencesDesc, float64(n), string(class))
	}
	gauge(acceptedDesc, float64(r.Count.Accepted))
	gauge(comparedDesc, float64(r.SourceKeys), "source")
	gauge(comparedDesc, float64(r.TargetKeys), "target")
	gauge(durationDesc, r.Ended.Sub(r.Began).Seconds())
	gauge(finishedAgeDesc, age(r.Ended))
	gauge(equalAgeDesc, age(c.equalAt))
	gauge(runningDesc, oneIf(c.running))
}
