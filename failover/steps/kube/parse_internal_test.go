package kube

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

func TestParseLookup(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"BIND":            {"Server:\t\t10.96.0.10\nAddress:\t10.96.0.10#53\n\nName:\ta.example.com\nAddress: 192.0.2.7\nName:\ta.example.com\nAddress: 2001:db8::7\n", "192.0.2.7, 2001:db8::7"},
		"BIND, alias":     {"Server:\t\t10.96.0.10\nAddress:\t10.96.0.10#53\n\na.example.com\tcanonical name = b.example.com.\nName:\tb.example.com\nAddress: 192.0.2.7\n", "192.0.2.7"},
		"BIND, none":      {"Server:\t\t10.96.0.10\nAddress:\t10.96.0.10#53\n\n** server can't find a.example.com: NXDOMAIN\n", ""},
		"BusyBox":         {"Server:\t\t10.96.0.10\nAddress:\t10.96.0.10:53\n\nNon-authoritative answer:\nName:\ta.example.com\nAddress: 192.0.2.7\n\n*** Can't find a.example.com: No answer\n", "192.0.2.7"},
		"older BusyBox":   {"Server:    10.96.0.10\nAddress 1: 10.96.0.10 kube-dns.kube-system.svc.cluster.local\n\nName:      a.example.com\nAddress 1: 192.0.2.7 host.example.com\nAddress 2: 2001:db8::7\n", "192.0.2.7, 2001:db8::7"},
		"carriage return": {"Name:\ta\r\nAddress: 192.0.2.7\r\n", "192.0.2.7"},
		"twice":           {"Name: a\nAddress: 192.0.2.7\nAddress: ::ffff:192.0.2.7\n", "192.0.2.7"},
	} {
		if got := addresses(parseLookup(c.text)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func FuzzParseLookup(f *testing.F) {
	f.Add("Server: 1.1.1.1\nAddress: 1.1.1.1#53\n\nName: a\nAddress 1: 192.0.2.7 x\n")
	f.Fuzz(func(t *testing.T, text string) {
		found := parseLookup(text)
		for _, a := range found {
			if !a.IsValid() || a.Is4In6() {
				t.Errorf("%v of %q", a, text)
			}
		}
		// What it gives reads the same when it is written as nslookup does, and a server's address before it changes nothing.
		var again strings.Builder
		again.WriteString("Server:\t\t203.0.113.53\nAddress:\t203.0.113.53#53\n\n")
		for _, a := range found {
			fmt.Fprintf(&again, "Name:\tx\nAddress: %s\n", a)
		}
		if got := addresses(parseLookup(again.String())); got != addresses(found) {
			t.Errorf("%q, again %q", addresses(found), got)
		}
	})
}

func FuzzJudgeCheck(f *testing.F) {
	f.Add(200, []byte(`{"ageSeconds":1,"result":{"ended":"2026-03-04T03:14:05Z","sourceRevision":7,"equal":true,"count":{"missed":0,"surplus":0,"different":0}}}`))
	f.Add(200, []byte(`{"ageSeconds":1,"result":{"ended":"2026-03-04T03:14:05Z","sourceRevision":7,"equal":true,"count":{"missed":1,"surplus":0,"different":0}}}`))
	f.Add(503, []byte(`{"error":"x","last":{"ended":"2026-03-04T03:14:05Z","equal":false,"count":{"missed":1}}}`))
	f.Add(200, []byte(`{"kind":"Status"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		o, err := judgeCheck(status, body, time.Minute)
		switch {
		case err != nil:
			t.Error(err)
		case o.Detail == "":
			t.Error("no detail")
		case o.State == failover.Done && (status != 200 || !strings.Contains(strings.ToLower(string(body)), "equal") || o.Loss != ""):
			t.Errorf("status %d passes: %s", status, body)
		case o.State != failover.Done && o.State != failover.Blocked:
			t.Errorf("state %q", o.State)
		}
	})
}

func TestJudgeCheck(t *testing.T) {
	result := func(equal bool, missed int, age float64) string {
		return fmt.Sprintf(`{"ageSeconds":%g,"result":{"ended":"2026-03-04T03:14:05Z","sourceRevision":7,"equal":%t,"count":{"missed":%d,"surplus":0,"different":0}}}`, age, equal, missed)
	}
	for name, c := range map[string]struct {
		status int
		body   string
		done   bool
		detail string
	}{
		"equal":          {200, result(true, 0, 1), true, "nothing differs"},
		"differs":        {200, result(false, 2, 1), false, "2 missed"},
		"old":            {200, result(true, 0, 61), false, "older than 1m0s"},
		"contradiction":  {200, result(true, 2, 1), false, "contradict"},
		"contradiction2": {200, result(false, 0, 1), false, "contradict"},
		"other status":   {500, result(true, 0, 1), false, "no result"},
		"page":           {200, "<html>", false, "no result of a check in JSON"},
		"no counts":      {200, `{"result":{"equal":true,"ended":"2026-03-04T03:14:05Z"}}`, false, "no result"},
		"both":           {200, `{"error":"x","result":{"equal":true,"ended":"2026-03-04T03:14:05Z","count":{}}}`, false, "no result"},
		"null":           {200, `null`, false, "no result"},
	} {
		o, err := judgeCheck(c.status, []byte(c.body), time.Minute)
		if err != nil || (o.State == failover.Done) != c.done || !strings.Contains(o.Detail, c.detail) {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
	}
}

func TestParseStarted(t *testing.T) {
	for text, want := range map[string]float64{
		"# HELP process_start_time_seconds x\n# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1.70000000021e+09\n": 1700000000.21,
		"process_start_time_seconds_other 5\nprocess_start_time_seconds 7 1700\n":                                                      7,
		"process_start_time_seconds NaN\n": 0, "process_start_time_seconds -1\n": 0, "process_start_time_seconds\n": 0, "": 0,
	} {
		if got, ok := parseStarted([]byte(text)); got != want || ok != (want > 0) {
			t.Errorf("%q: %v, %v", text, got, ok)
		}
	}
}

func FuzzParseStarted(f *testing.F) {
	f.Add([]byte("a 1\nprocess_start_time_seconds 1.7e9\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if at, ok := parseStarted(text); ok != (at > 0) {
			t.Errorf("%v, %v", at, ok)
		}
		_ = failedChecks(text)
	})
}

func TestFailedChecks(t *testing.T) {
	if got := failedChecks([]byte("[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/rbac/bootstrap-roles failed: not finished\nreadyz check failed")); got != "failed: etcd, poststarthook/rbac/bootstrap-roles" {
		t.Error(got)
	}
	if got := failedChecks([]byte("<html>")); got != "it names no failed check" {
		t.Error(got)
	}
	if got := addresses([]netip.Addr{netip.IPv6Loopback()}); got != "::1" {
		t.Error(got)
	}
}
