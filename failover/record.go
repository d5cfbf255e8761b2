package failover

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// RecordKind is what a record of a journal says.
type RecordKind string

const (
	// RecordPlan is the first: the plan and the journal's ID.
	RecordPlan RecordKind = "plan"
	// RecordRun: a runner has begun or resumed.
	RecordRun RecordKind = "run"
	// RecordObserved: what was seen that decides how a step goes on, or is undone.
	RecordObserved RecordKind = "observed"
	// RecordWaiting: a person is waited for, or a blocked step.
	RecordWaiting RecordKind = "waiting"
	// RecordDecision: what somebody decided or confirmed. RecordRefused: such a decision, and why it does not count.
	RecordDecision RecordKind = "decision"
	RecordRefused  RecordKind = "refused"
	// RecordIntent: Do is about to be called.
	RecordIntent RecordKind = "intent"
	// RecordFailed: an attempt failed.
	RecordFailed RecordKind = "failed"
	// RecordDone: a step is finished, and how (Outcome).
	RecordDone RecordKind = "done"
	// RecordNote is a line of output of a step. RecordSaved is what a step saved.
	RecordNote  RecordKind = "note"
	RecordSaved RecordKind = "saved"
	// RecordUndo: undoing has begun. RecordUndoIntent: Undo is about to be called. RecordUndone: a step is undone.
	RecordUndo       RecordKind = "undo"
	RecordUndoIntent RecordKind = "undo-intent"
	RecordUndone     RecordKind = "undone"
	// RecordUndoEnd: undoing ended before the plan's beginning, as asked, or at the point of no return.
	RecordUndoEnd RecordKind = "undo-end"
	// RecordStopped: a runner stopped, and why; the run can be resumed.
	RecordStopped RecordKind = "stopped"
	// RecordCopy: the copy in the etcd was lost or reached again.
	RecordCopy RecordKind = "copy"
	// RecordEnd: the run is over (Outcome).
	RecordEnd RecordKind = "end"
)

// Outcome is how a step or a run ended.
type Outcome string

const (
	// OutcomeDone: the runner did it. OutcomeAlready: it was found done before the runner touched it; it is not undone either.
	OutcomeDone    Outcome = "done"
	OutcomeAlready Outcome = "already"
	// OutcomePassed: a gate says Done. OutcomeAccepted: somebody accepted a gate's stated loss. OutcomeConfirmed: somebody confirmed a prompt.
	OutcomePassed    Outcome = "passed"
	OutcomeAccepted  Outcome = "accepted"
	OutcomeConfirmed Outcome = "confirmed"

	// OutcomeCompleted, OutcomeUndone and OutcomeRehearsed are those of runs: every step finished; undone to the beginning; a drill, finished and undone.
	OutcomeCompleted Outcome = "completed"
	OutcomeUndone    Outcome = "undone"
	OutcomeRehearsed Outcome = "rehearsed"
)

// Record is one record of a journal. Which fields are set depends on Kind; docs/failover-plan.md has the table.
type Record struct {
	Seq  int64      `json:"seq"` // from 1, without gaps
	At   time.Time  `json:"at"`  // by the clock of the runner's host
	Kind RecordKind `json:"kind"`

	Step     string          `json:"step,omitempty"`
	Attempt  int             `json:"attempt,omitempty"` // of Do or Undo, counted over all runs
	State    State           `json:"state,omitempty"`   // of an observation
	Outcome  Outcome         `json:"outcome,omitempty"`
	Detail   string          `json:"detail,omitempty"`
	Loss     string          `json:"loss,omitempty"` // that a gate states, or that was accepted
	For      Need            `json:"for,omitempty"`  // what is waited for
	Decision *Decision       `json:"decision,omitempty"`
	Key      string          `json:"key,omitempty"` // of what was saved
	Value    json.RawMessage `json:"value,omitempty"`
	Undo     *UndoOptions    `json:"undo,omitempty"`

	Journal string    `json:"journal,omitempty"` // its ID
	Hash    string    `json:"hash,omitempty"`    // the plan's
	Plan    *Document `json:"plan,omitempty"`
	Runner  *Identity `json:"runner,omitempty"`
}

// Identity says who runs a plan, where.
type Identity struct {
	By   string `json:"by,omitempty"` // Config.By
	Host string `json:"host"`
	PID  int    `json:"pid"`
}

func (i Identity) String() string {
	text := fmt.Sprintf("process %d on %s", i.PID, i.Host)
	if i.By != "" {
		text += ", " + i.By
	}
	return text
}

// A line of a journal is {"sum":"…","record":{…}} and a line feed. The sum is over the sum of the line before and the record's bytes, so lines cannot be changed, moved, left out or doubled unnoticed.
const (
	lineHead   = `{"sum":"`
	lineMiddle = `","record":`
	lineTail   = "}\n"
	sumLength  = 32
	// maxLine bounds a line; an etcd takes values of up to 1.5 MiB.
	maxLine = 1 << 20
	// noSum is the sum before the first line.
	noSum = ""
)

func chainSum(before string, record []byte) string {
	h := sha256.New()
	h.Write([]byte(before))
	h.Write(record)
	return hex.EncodeToString(h.Sum(nil))[:sumLength]
}

// encodeLine returns a record's line and its sum.
func encodeLine(before string, r Record) (line []byte, sum string, err error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, "", err
	}
	raw := bytes.TrimRight(b.Bytes(), "\n")
	sum = chainSum(before, raw)
	line = fmt.Appendf(make([]byte, 0, len(raw)+64), "%s%s%s%s%s", lineHead, sum, lineMiddle, raw, lineTail)
	if len(line) > maxLine {
		return nil, "", fmt.Errorf("a record of %d bytes exceeds %d", len(line), maxLine)
	}
	return line, sum, nil
}

// decodeLine reads a whole line, with its line feed.
func decodeLine(before string, line []byte) (r Record, sum string, err error) {
	const headLength = len(lineHead) + sumLength + len(lineMiddle)
	if len(line) > maxLine || len(line) < headLength+len(lineTail) || !bytes.HasPrefix(line, []byte(lineHead)) ||
		string(line[len(lineHead)+sumLength:headLength]) != lineMiddle || !bytes.HasSuffix(line, []byte(lineTail)) {
		return r, "", errors.New("it is no line of a journal")
	}
	sum = string(line[len(lineHead) : len(lineHead)+sumLength])
	raw := line[headLength : len(line)-len(lineTail)]
	if want := chainSum(before, raw); sum != want {
		return r, "", errors.New("its checksum is wrong: it, or the line before it, was changed, or lines are missing")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, "", errors.New("its record was written by another version")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return r, "", errors.New("it holds more than a record")
	}
	return r, sum, nil
}

// parsed is what a journal's file holds.
type parsed struct {
	records []Record
	lines   [][]byte // of the records, with their line feeds
	sum     string   // of the last
	good    int64    // bytes up to the end of the last record
	torn    bool     // bytes follow that a crash left within a write
	bare    bool     // the last record lacks its line feed only
}

// parseJournal reads a journal. Of a last line that was not written to its end nothing was promised, so it is left out. Any other damage is an error.
func parseJournal(path string, data []byte) (parsed, error) {
	var p parsed
	p.sum = noSum
	for len(data) > 0 {
		number := len(p.records) + 1
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			return p, p.lastLine(path, number, data)
		}
		line := data[:end+1]
		if err := p.add(path, number, line); err != nil {
			return p, err
		}
		p.good += int64(len(line))
		data = data[end+1:]
	}
	return p, nil
}

func (p *parsed) add(path string, number int, line []byte) error {
	r, sum, err := decodeLine(p.sum, line)
	if err != nil {
		return damaged(path, number, err.Error())
	}
	if r.Seq != int64(number) {
		return damaged(path, number, fmt.Sprintf("it has sequence number %d", r.Seq))
	}
	p.records, p.lines, p.sum = append(p.records, r), append(p.lines, line), sum
	return nil
}

// lastLine looks at what follows the last line feed: the beginning of a line, as a killed write leaves it, and after a power cut perhaps zeros.
func (p *parsed) lastLine(path string, number int, data []byte) error {
	tail := bytes.TrimRight(data, "\x00")
	if len(tail) == len(data) {
		if err := p.add(path, number, append(bytes.Clone(tail), '\n')); err == nil {
			p.good += int64(len(tail))
			p.bare = true
			return nil
		}
	}
	if !beginsLine(tail) {
		return damaged(path, number, "it does not end, and is not what a crash within a write leaves")
	}
	p.torn = true
	return nil
}

// beginsLine reports whether text is the beginning of a line, and no whole one.
func beginsLine(text []byte) bool {
	if n := min(len(text), len(lineHead)); string(text[:n]) != lineHead[:n] {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	var v any
	err := dec.Decode(&v)
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
