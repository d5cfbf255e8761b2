package soak_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/soak"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestMain(m *testing.M) {
	proc.RunChild(map[string]func() int{"replica": soak.RunReplica})
	testutil.Main(m)
}

var (
	soakDuration = flag.Duration("soak.duration", 0, "how long TestSoak begins new schedules; 0 skips it")
	soakParallel = flag.Int("soak.parallel", 6, "how many schedules of TestSoak run at once")
	soakSeed     = flag.Uint64("soak.seed", 0, "the first seed of TestSoak; 0 draws one")
)

const defaultSchedules = 3

// TestSchedules runs a few schedules. UNDERSTUDY_SEED repeats one, UNDERSTUDY_SCHEDULES runs that many.
func TestSchedules(t *testing.T) {
	opts := soak.Options{Schedules: defaultSchedules, Parallel: 3, Seed: rand.Uint64() >> 2}
	if s := os.Getenv("UNDERSTUDY_SCHEDULES"); s != "" {
		opts.Schedules = int(number(t, s))
	}
	if s := os.Getenv("UNDERSTUDY_SEED"); s != "" {
		opts.Schedules, opts.Seed = 1, number(t, s)
	}
	run(t, opts)
}

// TestSoak runs schedules for as long as it is told to.
func TestSoak(t *testing.T) {
	if *soakDuration == 0 {
		t.Skip("-soak.duration is not set")
	}
	run(t, soak.Options{Seed: *soakSeed, Duration: *soakDuration, Parallel: *soakParallel, Progress: testing.Verbose()})
}

func run(t *testing.T, opts soak.Options) {
	t.Helper()
	opts.Child = func(env []string) (soak.Child, error) { return proc.Start(told{t}, "replica", env), nil }
	report, err := soak.Run(t.Context(), opts, os.Stdout)
	if err != nil {
		t.Error(err)
	}
	if testing.Verbose() || t.Failed() || report.Violations > 0 {
		if err := report.Print(os.Stdout); err != nil {
			t.Error(err)
		}
	}
	if report.Violations > 0 {
		t.Errorf("%d violations", report.Violations)
	}
	if report.Schedules == 0 || report.Writes == 0 || report.Checkpoints == 0 || report.Keys == 0 || len(report.Faults) == 0 {
		t.Errorf("nothing was tested: %+v", report)
	}
}

// told is a test that children think passes: what they wrote is shown with the schedule that failed, not with all others too.
type told struct{ testing.TB }

func (told) Failed() bool { return false }

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 62)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBadOptions(t *testing.T) {
	for field, opts := range map[string]soak.Options{
		"Schedules": {Schedules: -1}, "Duration": {Duration: -time.Second}, "Parallel": {Parallel: 1000},
		"MaxFailures": {MaxFailures: -1}, "Steps": {Steps: -1}, "Replicas": {Replicas: 4},
	} {
		if _, err := soak.Run(t.Context(), opts, os.Stdout); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%+v: error %v does not name %s", opts, err, field)
		}
	}
}
