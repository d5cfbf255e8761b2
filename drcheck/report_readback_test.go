package drcheck

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// TestReportsCanBeReadBack makes random results and finds all of them again in their text: what was counted, each listed key under its class and reason,
// how many are not listed, the table. Whatever bytes keys and details have, the text is printable.
func TestReportsCanBeReadBack(t *testing.T) {
	for _, seed := range seeds(t, 300) {
		r := randomResult(rand.New(rand.NewPCG(seed, 5)))
		var text strings.Builder
		if err := r.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text.String()) {
			if line = strings.TrimSuffix(line, "\n"); !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("not printable: %q", line)
			}
		}
		want := reading{equal: r.Equal, counts: map[string]int{}, keys: map[string]int{}, more: map[string]int{}, table: map[string][4]int{}}
		for class, total := range map[Class]int{Missed: r.Count.Missed, Surplus: r.Count.Surplus, Different: r.Count.Different, "accepted": r.Count.Accepted} {
			if total > 0 || class != "accepted" {
				want.counts[string(class)] = total
			}
			listed := 0
			for _, d := range r.Differences {
				if section := section(d); section == string(class) {
					listed++
					want.keys[section+" "+string(d.Reason)+" "+d.Key]++
				}
			}
			if total > listed {
				want.more[string(class)] = total - listed
			}
		}
		for _, c := range r.Resources {
			if c.Total() > 0 {
				want.table[c.Resource] = [4]int{c.Keys, c.Missed, c.Surplus, c.Different}
			}
		}
		got, err := readReport(text.String())
		if err != nil {
			t.Errorf("%v in\n%s", err, &text)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(reading{})); diff != "" {
			t.Errorf("(-want +got) %s in\n%s", diff, &text)
		}
		if t.Failed() {
			t.Fatalf("repeat with UNDERSTUDY_SEED=%d", seed)
		}
	}
}

// seeds are n random ones, or as many as UNDERSTUDY_SCHEDULES says, or the one that UNDERSTUDY_SEED says.
func seeds(t *testing.T, n uint64) (all []uint64) {
	t.Helper()
	given := func(name string) (uint64, bool) {
		text := os.Getenv(name)
		value, err := strconv.ParseUint(text, 10, 62)
		if text != "" && err != nil {
			t.Fatalf("%s is %q: set it to a number", name, text)
		}
		return value, text != ""
	}
	if seed, ok := given("UNDERSTUDY_SEED"); ok {
		return []uint64{seed}
	}
	if many, ok := given("UNDERSTUDY_SCHEDULES"); ok {
		n = many
	}
	first := rand.Uint64() >> 3
	for i := range n {
		all = append(all, first+i)
	}
	return all
}

func section(d Difference) string {
	if d.Accepted {
		return "accepted"
	}
	return string(d.Class)
}

// randomResult is one as a Checker may make it, with odd names.
func randomResult(rng *rand.Rand) *Result {
	word := func() string {
		parts := []string{" ", "\"", "\\", "\n", "\x00", "\xff", "a", "b", "/", "(", ":", "é", "\u202e", "\u00a0", "z", "-", "LOCAL ETCD missed keys: 9"}
		var b strings.Builder
		for range rng.IntN(9) {
			b.WriteString(parts[rng.IntN(len(parts))])
		}
		return b.String()
	}
	r := &Result{Mode: []Mode{Content, KeysOnly}[rng.IntN(2)], Began: reportNoon, Ended: reportNoon.Add(time.Duration(rng.Int64N(1e12)))}
	if rng.IntN(2) == 0 {
		r.Mirror = &MirrorState{Name: word(), Phase: word(), SourceHead: rng.Int64N(100), SourceHeadAt: reportNoon.Add(time.Duration(rng.Int64N(2e12) - 1e12))}
	}
	limit := rng.IntN(5) - 1
	seen := map[string]bool{}
	for _, class := range Classes {
		for i := range rng.IntN(7) {
			d := Difference{Class: class, Reason: explanations[rng.IntN(len(explanations))].reason, Detail: word(), Key: word(), SourceKey: word(), SourceRevision: rng.Int64N(3), TargetRevision: rng.Int64N(3)}
			d.Accepted = class == Surplus && d.Reason == ReasonMadeAtTarget && rng.IntN(2) == 0
			r.Count.add(d)
			if i >= limit {
				r.Unlisted++
				continue
			}
			r.Differences = append(r.Differences, d)
		}
	}
	for range rng.IntN(4) {
		c := ResourceCount{Resource: word(), Keys: rng.IntN(1e6), Count: Count{Missed: rng.IntN(3), Surplus: rng.IntN(3), Different: rng.IntN(2000), Accepted: rng.IntN(3)}}
		if !seen[c.Resource] {
			r.Resources = append(r.Resources, c)
		}
		seen[c.Resource] = true
	}
	r.Equal = r.Count.Total() == 0
	return r
}

// reading is what the text of a report says.
type reading struct {
	equal  bool
	counts map[string]int // by section
	keys   map[string]int // by section, reason and key
	more   map[string]int // by section
	table  map[string][4]int
}

var (
	sectionLine = regexp.MustCompile(`^(?:LOCAL ETCD (missed|surplus|different)|(Accepted)) keys: (\d+)$`)
	groupLine   = regexp.MustCompile(`^  ([a-z-]+) \((\d+)( listed)?\): .+\.$`)
	adviceLine  = regexp.MustCompile(`^    -> .+\.$`)
	moreLine    = regexp.MustCompile(`^  and (\S+) more that the limit leaves out: raise --limit \(Config\.Limit\) to list them$`)
)

// readReport reads a report as a script would.
func readReport(text string) (reading, error) {
	r := reading{equal: strings.HasPrefix(text, "Equal"), counts: map[string]int{}, keys: map[string]int{}, more: map[string]int{}, table: map[string][4]int{}}
	var section, reason string
	tableWidth, open := -1, 0
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := sectionLine.FindStringSubmatch(line); m != nil {
			section = strings.ToLower(m[1] + m[2])
			if _, twice := r.counts[section]; twice {
				return r, fmt.Errorf("two sections %s", section)
			}
			r.counts[section], _ = strconv.Atoi(m[3])
			continue
		}
		if section == "" {
			switch {
			case strings.HasPrefix(line, "RESOURCE "):
				tableWidth = utf8.RuneCountInString(line)
			case line == "":
			case tableWidth >= 0:
				name, rest, err := firstWord(line)
				cells := strings.Fields(rest)
				if err != nil || len(cells) != 4 || utf8.RuneCountInString(line) != tableWidth {
					return r, fmt.Errorf("row %q: %v", line, err)
				}
				var numbers [4]int
				for i, cell := range cells {
					if numbers[i], err = strconv.Atoi(cell); err != nil {
						return r, err
					}
				}
				r.table[name] = numbers
			}
			continue
		}
		group, more := groupLine.FindStringSubmatch(line), moreLine.FindStringSubmatch(line)
		switch {
		case strings.HasPrefix(line, "      "):
			key, _, err := firstWord(line[6:])
			if err != nil || open == 0 {
				return r, fmt.Errorf("line %q, of which %d are expected: %v", line, open, err)
			}
			r.keys[section+" "+reason+" "+key]++
			open--
		case open == 0 && group != nil:
			reason = strings.Replace(group[1], "unexplained", "", 1)
			open, _ = strconv.Atoi(group[2])
		case open == 0 && more != nil:
			r.more[section], _ = strconv.Atoi(strings.ReplaceAll(more[1], ",", ""))
		case adviceLine.MatchString(line) && section != "accepted", line == "", line == "  values were not compared (mode keys)" && section == "different":
		default:
			return r, fmt.Errorf("line %q is not understood, or %d keys before it are missing", line, open)
		}
	}
	if open != 0 {
		return r, fmt.Errorf("%d keys are missing at the end", open)
	}
	return r, nil
}

// firstWord reads a word that may be quoted.
func firstWord(line string) (word, rest string, err error) {
	if strings.HasPrefix(line, `"`) {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return "", "", err
		}
		word, err = strconv.Unquote(quoted)
		return word, line[len(quoted):], err
	}
	word, rest, _ = strings.Cut(line, " ")
	return word, rest, nil
}
