package drcheck

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// WriteText writes the report for people: the outcome in a sentence, what is known of the mirror, the resources that differ, and the keys by class and reason,
// each group with a line that says what to do. The lines "LOCAL ETCD missed keys: N", "LOCAL ETCD surplus keys: N" and "LOCAL ETCD different keys: N" are always there,
// each at the beginning of a line; LOCAL ETCD is the target, the etcd of the standby.
//
// A key is the first word of its line. One that holds a space, a quote or anything that cannot be printed is quoted as Go does it. No value is written.
func (r *Result) WriteText(w io.Writer) error {
	out := bufio.NewWriter(w)
	p := reportPrinter{out: out, r: r}
	p.head()
	p.mirror()
	p.resources()
	for _, class := range Classes {
		p.class(class)
	}
	p.accepted()
	return out.Flush() // and the first error before
}

// reportPrinter writes the parts of a report. A failed write is kept by out and told by Flush.
type reportPrinter struct {
	out *bufio.Writer
	r   *Result
}

func (p *reportPrinter) line(format string, args ...any) {
	fmt.Fprintf(p.out, format+"\n", args...)
}

// row writes a line of the head, with the labels in a column.
func (p *reportPrinter) row(label, format string, args ...any) {
	p.line("  %-17s %s", label, fmt.Sprintf(format, args...))
}

// head writes the outcome and what was compared.
func (p *reportPrinter) head() {
	r, c := p.r, p.r.Count
	held, what := "all that", "keys and values"
	if r.Mode == KeysOnly {
		held, what = "all the keys that", "keys, not values,"
	}
	var outcome string
	switch {
	case !r.Equal:
		outcome = fmt.Sprintf("Differs: %s missed, %s surplus, %s different", reportKeys(c.Missed), reportNumber(int64(c.Surplus)), reportNumber(int64(c.Different)))
	case c.Accepted > 0:
		outcome = fmt.Sprintf("Equal but for %s accepted: the target holds %s the source held at revision %d", reportKeys(c.Accepted), held, r.SourceRevision)
	default:
		outcome = fmt.Sprintf("Equal: the target holds %s the source held at revision %d", held, r.SourceRevision)
	}
	p.line("%s; %s of %s at source revision %d and %s at target revision %d were compared in %s.", outcome, what,
		reportKeys(r.SourceKeys), r.SourceRevision, reportKeys(r.TargetKeys), r.TargetRevision, reportDuration(r.Ended.Sub(r.Began)))

	p.row("began", "%s", r.Began.UTC().Format(time.RFC3339))
	p.row("source (primary)", "cluster %s", reportName(r.SourceClusterID))
	p.row("target (standby)", "cluster %s", reportName(r.TargetClusterID))
	p.row("filtered out", "%s of the source", reportKeys(r.Filtered))
	if r.Rechecked > 0 {
		p.row("looked at again", "%s", reportKeys(r.Rechecked))
	}
	if r.Unconfirmed > 0 {
		p.row("unconfirmed", "%s counted at a first look only, because too many differ (Config.MaxRechecks): traffic may be among them", reportKeys(r.Unconfirmed))
	}
	if c.Accepted > 0 {
		p.row("accepted", "%s that the target's own cluster made do not count as differences (Config.AcceptMadeAtTarget)", reportKeys(c.Accepted))
	}
}

// reportPhases explains the phases of a mirror's checkpoint.
var reportPhases = map[string]string{
	"base":     "the first copy is not finished; the target equals no source revision",
	"resync":   "a copy of what changed is not finished; the target equals no source revision",
	"tail":     "the copy is complete, and changes are followed",
	"partial":  "the next source revision is applied in part",
	"promoted": "the target changes on its own; it is nobody's standby",
	"armed":    "demoted, and no mirror has begun since",
}

// oldRecord is the age from which on it is worth a word that the source is ahead of the mirror's record, which an idle mirror saves every few seconds.
const oldRecord = time.Minute

// mirror writes what the target tells of the mirror.
func (p *reportPrinter) mirror() {
	m := p.r.Mirror
	if m == nil {
		p.row("mirror", "not known (no name was given): a key counts as different when both sides leave it unequal")
		return
	}
	p.row("mirror", "%s, epoch %d", reportName(m.Name), m.Epoch)
	switch meaning := reportPhases[m.Phase]; {
	case m.Phase == "":
		p.row("phase", "none: the mirror has not begun, or its metadata was removed in part")
	case meaning == "":
		p.row("phase", "%s", reportName(m.Phase))
	default:
		p.row("phase", "%s: %s", m.Phase, meaning)
	}
	p.row("applied revision", "%d%s", m.AppliedRevision, p.before(", saved ", m.AppliedAt))
	if m.SourceHead == 0 {
		p.row("lag", "not known: the mirror has not seen the source")
	} else {
		lag, atMost := max(m.SourceHead-m.AppliedRevision, 0), ""
		if lag > 0 && (m.Phase == "base" || m.Phase == "resync") {
			atMost = "at most "
		}
		p.row("lag", "%s%s: source head %d%s", atMost, reportCount(lag, "source revision"), m.SourceHead, p.before(", seen ", m.SourceHeadAt))
	}
	if p.r.SourceRevision > m.SourceHead && p.r.Ended.Sub(m.SourceHeadAt) > oldRecord && m.Phase != "promoted" && m.Phase != "armed" {
		p.row("", "the check saw source revision %d: see whether the mirror runs and reaches the source", p.r.SourceRevision)
	}
}

// before tells how long before the end of the check something was, or when it was if that makes no sense.
func (p *reportPrinter) before(verb string, at time.Time) string {
	switch d := p.r.Ended.Sub(at); {
	case at.IsZero():
		return ""
	case d < 0: // another machine's clock
		return verb + "at " + at.UTC().Format(time.RFC3339)
	default:
		return verb + reportDuration(d) + " before the check ended"
	}
}

// resources writes a table of the resources that differ.
func (p *reportPrinter) resources() {
	rows := [][]string{{"RESOURCE", "KEYS", "MISSED", "SURPLUS", "DIFFERENT"}}
	for _, c := range p.r.Resources {
		if c.Total() > 0 {
			rows = append(rows, []string{reportName(c.Resource), strconv.Itoa(c.Keys), strconv.Itoa(c.Missed), strconv.Itoa(c.Surplus), strconv.Itoa(c.Different)})
		}
	}
	if len(rows) == 1 {
		return
	}
	var widths [5]int
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	p.line("")
	for _, row := range rows {
		p.line("%-*s  %*s  %*s  %*s  %*s", widths[0], row[0], widths[1], row[1], widths[2], row[2], widths[3], row[3], widths[4], row[4])
	}
}

// class writes the section of a class, which is there even when it is empty.
func (p *reportPrinter) class(class Class) {
	total := map[Class]int{Missed: p.r.Count.Missed, Surplus: p.r.Count.Surplus, Different: p.r.Count.Different}[class]
	p.line("\nLOCAL ETCD %s keys: %d", class, total)
	if class == Different && p.r.Mode == KeysOnly {
		p.line("  values were not compared (mode %s)", KeysOnly)
	}
	p.groups(total, func(d Difference) bool { return d.Class == class && !d.Accepted })
}

// accepted writes what Config.AcceptMadeAtTarget set aside.
func (p *reportPrinter) accepted() {
	if n := p.r.Count.Accepted; n > 0 {
		p.line("\nAccepted keys: %d", n)
		p.groups(n, func(d Difference) bool { return d.Accepted })
	}
}

// groups writes those of the listed differences that are chosen, by class and reason, the urgent first, and how many of total are not listed.
func (p *reportPrinter) groups(total int, chosen func(Difference) bool) {
	type group struct {
		class    Class
		reason   Reason
		accepted bool
	}
	var order []group
	members := map[group][]Difference{}
	listed := 0
	for _, d := range p.r.Differences {
		if !chosen(d) {
			continue
		}
		g := group{d.Class, d.Reason, d.Accepted}
		if members[g] == nil {
			order = append(order, g)
		}
		members[g] = append(members[g], d)
		listed++
	}
	rank := func(g group) int {
		at, _ := explained(g.reason)
		return at
	}
	slices.SortStableFunc(order, func(a, b group) int { return rank(a) - rank(b) })
	for _, g := range order {
		name, count := string(g.reason), reportNumber(int64(len(members[g])))
		if g.reason == ReasonUnknown {
			name = "unexplained"
		}
		if listed < total {
			count += " listed"
		}
		_, e := explained(g.reason)
		p.line("  %s (%s): %s.", reportName(name), count, e.means)
		if m := p.r.Mirror; m != nil && m.Phase == "promoted" { // whatever the reason
			_, e = explained(ReasonPromoted)
		}
		switch {
		case g.accepted:
		case g.class == Surplus && e.surplus != "":
			p.line("    -> %s.", e.surplus)
		default:
			p.line("    -> %s.", e.advice)
		}
		for _, d := range members[g] {
			p.difference(d)
		}
	}
	if more := total - listed; more > 0 {
		p.line("  and %s more that the limit leaves out: raise --limit (Config.Limit) to list them", reportNumber(int64(more)))
	}
}

// difference writes the line of a key.
func (p *reportPrinter) difference(d Difference) {
	var facts []string
	switch {
	case d.Detail == "":
	case d.Reason == ReasonOwnerMissing || d.Reason == ReasonOwnerExcluded:
		facts = append(facts, "owner "+reportName(d.Detail))
	default:
		facts = append(facts, reportLine(d.Detail))
	}
	if d.SourceKey != d.Key && d.SourceKey != "" {
		facts = append(facts, "source key "+reportName(d.SourceKey))
	}
	if d.SourceRevision != 0 {
		facts = append(facts, fmt.Sprintf("source revision %d", d.SourceRevision))
	}
	if d.TargetRevision != 0 {
		facts = append(facts, fmt.Sprintf("target revision %d", d.TargetRevision))
	}
	p.line("      %s", strings.TrimRight(reportName(d.Key)+"  "+strings.Join(facts, "; "), " "))
}

// explanation says what a reason means, and what to do about it.
type explanation struct {
	reason        Reason
	means, advice string
	// surplus is the advice for surplus keys where it is another: to delete is not for a check to recommend.
	surplus string
}

const confirmSurplus = "confirm with whoever runs the standby before deleting any of them: a repair deletes surplus keys only when it is told to"

// explanations are in the order of reports: first what somebody has to act on, last what passes by itself.
var explanations = []explanation{
	{ReasonUnreadable, "the target's value cannot be read there, and one such value may fail every list of its resource",
		"if the standby's encryption configuration lacks a key, add it; if the value is damaged, repair", confirmSurplus},
	{ReasonGuarded, "a guard of the mirror keeps the source's value from the target",
		"remove the cause that the guard names: until then neither the mirror nor a repair writes the key", confirmSurplus},
	{ReasonOwnerExcluded, "the filter drops an owner of the object, so the target's garbage collector deletes the object",
		"let the filter keep the owner, or drop the object too: a repair skips what would be deleted again", confirmSurplus},
	{ReasonOwnerMissing, "an owner of the object is not at the target, so the target's garbage collector deletes the object",
		"repair owner and object together: a repair puts owners first, and skips an object whose owner it does not put", confirmSurplus},
	{ReasonChangedAtTarget, "others changed or deleted the key at the target, and the mirror knows it",
		"find out who writes to the standby and stop it, then repair; a mirror that is set to repair drift does so by itself", confirmSurplus},
	{ReasonMadeAtTarget, "the target's own cluster made the key",
		"confirm with whoever runs the standby, then repair: that puts the source's in its place", confirmSurplus + "; Config.AcceptMadeAtTarget sets aside what belongs there"},
	{ReasonUnknown, "nothing that is known explains it",
		"look at the mirror's status and log, then repair", confirmSurplus},
	{ReasonExpired, "the key has a lease at the source, and ran out at the target",
		"such keys run out at the source too; if they stay, see in the mirror's status whether it keeps leases alive", confirmSurplus},
	{ReasonStatus, "only the object's status and managed fields differ",
		"harmless as a rule: a controller of the standby writes them; see which one should not run there, or repair", ""},
	{ReasonManagedFields, "only the object's managed fields differ",
		"harmless as a rule: they tell who set which field; repair to have the source's", ""},
	{ReasonInFlight, "the source changed the key after the revision that the mirror has applied",
		"the mirror is behind: look at its status, and check again when it has caught up", ""},
	{ReasonCopying, "a base copy or resync had not finished when the check ended",
		"wait until the mirror is in phase tail, and check again", ""},
	{ReasonPromoted, "the target was promoted and changes on its own",
		"nothing is to be repaired: it is nobody's standby", ""},
}

// explained returns the place of a reason in reports, and its explanation.
func explained(reason Reason) (int, explanation) {
	i := slices.IndexFunc(explanations, func(e explanation) bool { return e.reason == reason })
	if i < 0 { // no reason of this version
		return explained(ReasonUnknown)
	}
	return i, explanations[i]
}

// reportName shows a key, or another word from outside, as one word: as it is, or quoted.
func reportName(s string) string {
	odd := func(r rune) bool { return r == '"' || r == ' ' || !unicode.IsPrint(r) }
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, odd) {
		return strconv.Quote(s)
	}
	return s
}

// reportLine shows a text from outside on one line, with escapes where it cannot be printed.
func reportLine(s string) string {
	var b strings.Builder
	for _, word := range strings.Fields(s) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if utf8.ValidString(word) && !strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsPrint(r) }) {
			b.WriteString(word)
			continue
		}
		quoted := strconv.Quote(word)
		b.WriteString(strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`))
	}
	return b.String()
}

func reportKeys(n int) string { return reportCount(int64(n), "key") }

func reportCount(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return reportNumber(n) + " " + noun
}

// reportNumber groups digits by thousands.
func reportNumber(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// reportDuration rounds to what matters.
func reportDuration(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
