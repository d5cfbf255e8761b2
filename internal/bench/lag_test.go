package main

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestLagOfEveryKindOfWrite(t *testing.T) {
	rec := func(number int, key string, revision int64, acked time.Duration) *record {
		return &record{write: write{number: number, key: key}, kept: true, size: 10, issued: acked - ms, acked: acked, revision: revision}
	}
	deleted := func(r *record) *record { r.deletes = true; return r }
	records := []*record{
		rec(1, "a", 2, 10*ms),
		rec(2, "a", 4, 20*ms), // the server took number 3 first
		rec(3, "a", 3, 21*ms),
		rec(4, "b", 5, 30*ms),
		deleted(rec(5, "b", 6, 40*ms)),
		rec(6, "c", 7, 50*ms), // created and deleted in one step of the mirror
		deleted(rec(7, "c", 8, 51*ms)),
		rec(8, "d", 9, 60*ms),
		rec(9, "e", 10, 70*ms), // on its way
	}
	dropped := rec(10, "f", 11, 71*ms)
	dropped.kept = false
	records = append(records, dropped)
	land(records, []arrival{{number: 1, at: 12 * ms}, {number: 2, at: 25 * ms}, {deleted: "b", at: 44 * ms}, {number: 8, at: 66 * ms}, {number: 99, at: ms}, {deleted: "z", at: ms}})
	for i, want := range []time.Duration{12 * ms, 25 * ms, 25 * ms, 44 * ms, 44 * ms, 66 * ms, 66 * ms, 66 * ms} {
		if r := records[i]; !r.landed || r.arrived != want {
			t.Errorf("write %d: arrived after %v (%t), want %v", r.number, r.arrived, r.landed, want)
		}
	}
	if records[8].landed || records[9].landed {
		t.Error("a write has arrived that has not")
	}

	f := lagFigures{Drained: true}
	f.follow(records, 80*ms, 170*ms)
	if f.Writes != 10 || f.Kept != 9 || f.KeptBytes != 90 || f.Missing != 1 || f.FallsBehind {
		t.Errorf("%+v", f)
	}
	// 2 5 4 14 4 16 15 6 and 100 for the one that has not arrived
	if want := (percentiles{6, 100}); f.Lag != want {
		t.Errorf("lag %v, want %v", f.Lag, want)
	}
	if want := (percentiles{7, 101}); f.IssuedLag != want {
		t.Errorf("lag from the request %v, want %v", f.IssuedLag, want)
	}
	if f.Rate != 125 {
		t.Errorf("%v writes/s", f.Rate)
	}
	f = lagFigures{}
	f.follow(records, 80*ms, 170*ms)
	if f.Missing != 0 {
		t.Error("a write is missing although the mirror was not waited for")
	}
}

// A mirror that takes less than is written falls behind; one that is late by a constant does not.
func TestWhoFallsBehind(t *testing.T) {
	for name, c := range map[string]struct {
		arrives func(acked time.Duration) time.Duration
		want    bool
		half    int // backlog on average over 500 to 1000 ms, with one write in each
		end     int // over 1500 to 2000 ms
	}{
		"late":      {func(a time.Duration) time.Duration { return a + 300*ms }, false, 300, 300},
		"in bursts": {func(a time.Duration) time.Duration { return a.Truncate(200*ms) + 210*ms }, false, 105, 105},
		"slower":    {func(a time.Duration) time.Duration { return a * 10 / 8 }, true, 150, 350},
		"stuck":     {func(time.Duration) time.Duration { return time.Hour }, true, 750, 1750},
		"one pause": {func(a time.Duration) time.Duration {
			if a > 1700*ms && a < 1900*ms {
				return 1900 * ms
			}
			return a
		}, false, 0, 40},
	} {
		var records []*record
		for i := range 2000 {
			acked := time.Duration(i) * ms
			records = append(records, &record{write: write{number: i + 1, key: strconv.Itoa(i)}, kept: true, acked: acked, landed: true, arrived: c.arrives(acked)})
		}
		f := lagFigures{Drained: true}
		f.follow(records, 2000*ms, time.Hour)
		near := func(got, want int) bool { return got >= want-12 && got <= want+12 }
		if f.FallsBehind != c.want || !near(f.BacklogHalf, c.half) || !near(f.BacklogEnd, c.end) {
			t.Errorf("%s: falls behind: %t, backlog %d then %d", name, f.FallsBehind, f.BacklogHalf, f.BacklogEnd)
		}
	}
}

func TestPercentilesAreOfTheNearestRank(t *testing.T) {
	for n, want := range map[int]percentiles{0: {}, 1: {1, 1}, 2: {1, 2}, 100: {50, 99}, 101: {51, 100}, 200: {100, 198}} {
		var values []time.Duration
		for i := range n {
			values = append(values, time.Duration(i+1)*ms)
		}
		rand.Shuffle(n, func(i, j int) { values[i], values[j] = values[j], values[i] })
		if got := percentilesOf(values); got != want {
			t.Errorf("%d values: %v, want %v", n, got, want)
		}
	}
}

func TestStampsAreFoundAgain(t *testing.T) {
	o := benchObject("ConfigMap", "team-00", "x", 1000, 3)
	for name, value := range map[string][]byte{"protobuf": o.Protobuf(), "JSON": o.JSON(), "encrypted": o.Encrypted("aescbc", "key1")} {
		if n, ok := stampOf(value); ok {
			t.Errorf("%s: an untouched value has number %d", name, n)
		}
		before := slices.Clone(value)
		for _, n := range []int{0, 1, 1 << 40} {
			setStamp(value, n)
			if got, ok := stampOf(value); !ok || got != n || len(value) != len(before) {
				t.Errorf("%s: number %d, %t, want %d", name, got, ok, n)
			}
		}
	}
	if _, ok := stampOf([]byte("short")); ok {
		t.Error("a short value has a number")
	}
}
