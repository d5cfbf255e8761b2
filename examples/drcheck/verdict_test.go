package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// With a dead source the target tells what is lost at most, and when the two were last found equal.
func TestVerdict(t *testing.T) {
	p := mirrored(t, 10)
	invoke(t, p.args("verdict")...).want(t, 0, `Mirror "default"`, "never proven equal")
	before := time.Now()
	invoke(t, p.args("check")...).want(t, 0)
	if err := p.source.StopMember(0); err != nil {
		t.Fatal(err)
	}
	o := invoke(t, p.args("verdict")...).want(t, 0, "at most 0 known revisions", "last proven equal at")
	if strings.Contains(o.out, "took no write after") || o.err != "" {
		t.Errorf("a disaster that nobody told of:\n%s%s", o.out, o.err)
	}
	var got struct {
		drcheck.Verdict
		At   time.Time
		Loss struct {
			Revisions     int64
			Since         time.Time
			WindowSeconds float64
		}
	}
	read := func(args ...string) {
		t.Helper()
		o := invoke(t, p.args("verdict", append(args, "--output", "json")...)...).want(t, 0)
		if err := json.Unmarshal([]byte(o.out), &got); err != nil {
			t.Fatalf("%v:\n%s", err, o.out)
		}
	}
	read()
	if !got.Complete || got.LastEqual == nil || got.LastEqual.Keys != 11 || got.LastEqual.Ended.Before(before.Add(-time.Second)) || !got.At.Equal(got.Now) || got.Loss.Revisions != 0 || !got.Loss.Since.Equal(got.HoldsUntil) ||
		got.Loss.WindowSeconds != got.Now.Sub(got.HoldsUntil).Seconds() {
		t.Errorf("got %+v", got)
	}
	// A disaster before the last contact has lost nothing; one long after may have lost more than one now is known to have.
	early := got.HoldsUntil.Add(-time.Hour)
	read("--at", early.Format(time.RFC3339))
	if got.Loss.WindowSeconds != 0 || !got.At.Equal(early.Truncate(time.Second)) {
		t.Errorf("an early disaster: %+v", got.Loss)
	}
	invoke(t, p.args("verdict", "--at", early.In(time.FixedZone("", 3600)).Format(time.RFC3339))...).want(t, 0,
		"If the primary took no write after "+early.Format("2006-01-02 15:04:05 UTC"), "lost at most: nothing that was written by then")

	if _, err := etcdmirror.Promote(testutil.Context(t), p.targetC, "default", etcdmirror.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	invoke(t, p.args("verdict")...).want(t, 0, "The standby was promoted")
	read()
	if !got.Promoted || got.LastEqual == nil {
		t.Errorf("after the promotion: %+v", got)
	}
}

func TestLossAtATime(t *testing.T) {
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	for want, l := range map[string]drcheck.Loss{
		"what the primary wrote within 3s before it": {Since: at.Add(-2001 * time.Millisecond), Window: 2001 * time.Millisecond},
		"nothing that was written by then":           {Since: at.Add(time.Minute)},
		"no moment is known":                         {Revisions: 9},
	} {
		var out strings.Builder
		if err := printLoss(&out, at, l); err != nil || !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "after 2026-03-04 12:00:00 UTC\n") {
			t.Errorf("%+v gives %q, want %q", l, out.String(), want)
		}
	}
}

// What the JSON has beside the fields of package drcheck is documented in the help.
func TestOwnFieldsAreDocumented(t *testing.T) {
	fields := map[string][]string{"verdict": {"at", "loss", "revisions", "since", "windowSeconds"}, "repair": {"check", "plan", "report", "after"}}
	for command, value := range map[string]any{
		"verdict": newVerdictView(&drcheck.Verdict{HoldsUntil: time.Unix(1, 0)}, time.Unix(2, 0)),
		"repair":  repaired{&drcheck.Result{}, &drcheck.RepairPlan{}, &drcheck.RepairReport{}, &drcheck.Result{}},
	} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range fields[command] {
			if !strings.Contains(string(text), `"`+name+`":`) || !regexp.MustCompile(`\b`+name+`\b`).MatchString(details[command]) {
				t.Errorf("%s: %q is missing in the JSON or in the help: %s", command, name, text)
			}
		}
	}
}
