package main

import (
	"context"
	"io"
	"testing"
)

func TestSummaryOfSamples(t *testing.T) {
	s := size{Keys: 100}
	for run, slow := range []float64{1, 3} { // the machine was slower in the second run
		s.Samples = append(s.Samples,
			sample{Contender: roleUnderstudy, Case: "3000/s", Run: run + 1, cost: cost{Seconds: 1}, Lag: &lagFigures{Lag: percentiles{2 * slow, 4}, Put: percentiles{slow, 1}, Drained: true}},
			sample{Contender: roleMakeMirror, Case: "3000/s", Run: run + 1, cost: cost{Seconds: 1}, Lag: &lagFigures{Lag: percentiles{100 * slow, 400}, FallsBehind: true}})
	}
	got := summarize([]*result{{measure: tailMeasurement, Measure: "tail", Runs: 2, Sizes: []size{s}}}).Figures
	want := []figure{
		{100, "lag p50, 3000/s", "ms", "4.0", "≥ 200.0", "≥ 50.0", "2.0 times a put", "2 times a put at 3,000/s"},
		{100, "lag p99, 3000/s", "ms", "4.0", "≥ 400.0", "≥ 100.0", "-", "-"},
		{100, "keeps up, 3000/s", "", "yes", "falls behind", "-", "-", "yes"},
	}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
}

func TestFiguresThatDependLittleOnTheSizeAreTakenOnce(t *testing.T) {
	for _, c := range []struct{ all, anySize, twice bool }{{true, true, true}, {true, false, false}, {false, true, true}, {false, false, true}} {
		const name = "of the test"
		var sizes []int
		measurements[name] = measurement{anySize: c.anySize, turns: func(_ *bench, _ context.Context, s *size) error {
			sizes = append(sizes, s.Keys)
			return nil
		}}
		t.Cleanup(func() { delete(measurements, name) })
		b := &bench{cfg: config{all: c.all, keys: []int{5, 7}}, progress: io.Discard, dir: t.TempDir()}
		r, err := b.measureAll(t.Context(), name)
		if err != nil || len(r.Sizes) != len(sizes) || (len(sizes) == 2) != c.twice || sizes[0] != 5 {
			t.Errorf("%+v: sizes %v, %v", c, sizes, err)
		}
	}
}
