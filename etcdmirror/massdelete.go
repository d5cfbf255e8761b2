package etcdmirror

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/hook"
)

// DeletionGuard stops the mirror when the source loses too many of its kept keys in too short a time, before the target loses them too:
// somebody emptied the source, or the mirror was pointed at another. Keys that others replace do not count: it is the number of keys that must not fall.
type DeletionGuard struct {
	// Off turns the guard off.
	Off bool
	// Share and Count are how far the number of keys may fall within Window, as a share of the highest number in it and in keys; both must be exceeded.
	// 0 is DefaultDeletionShare and DefaultDeletionCount.
	Share float64
	Count int
	// Window is measured when the mirror applies the deletes; 0 is DefaultDeletionWindow. A resync counts as one moment.
	Window time.Duration
}

// Trip is the guard against mass deletion having stopped the mirror. See Approve.
type Trip struct {
	ID string `json:"id"`
	// SourceRevision is the last source revision that was applied.
	SourceRevision int64 `json:"revision"`
	// Keys is how many keys the target held at most within the window, Left how many the deletes would leave.
	Keys int64     `json:"keys"`
	Left int64     `json:"left"`
	Key  string    `json:"key"` // one of those to be deleted, at the target
	At   time.Time `json:"at"`
}

// String says what happened, without what to do.
func (t *Trip) String() string {
	return fmt.Sprintf("the guard against mass deletion stopped at source revision %d: of %d keys %d would be left; the next to go is %q", t.SourceRevision, t.Keys, t.Left, t.Key)
}

// approval lets the mirror continue after a trip.
type approval struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
}

// Approve lets a mirror that the guard against mass deletion has stopped continue: the deletes that the source had made by then are applied.
// ErrNotTripped if it is not stopped. It needs no source, and the mirror need not run.
func Approve(ctx context.Context, target *clientv3.Client, name string) (*Trip, error) {
	md, err := ReadMetadata(ctx, target, name)
	if err != nil {
		return nil, err
	}
	if md.Checkpoint.Phase == PhasePromoted {
		return nil, &Error{Kind: ErrPromoted, Side: "target", Detail: fmt.Sprintf("mirror %q was promoted in epoch %d", name, md.Checkpoint.Epoch), Hint: "nothing waits for an approval"}
	}
	if md.Trip == nil {
		return nil, &Error{Kind: ErrNotTripped, Side: "target", Detail: fmt.Sprintf("mirror %q waits for no approval", name), Hint: "nothing is left to do"}
	}
	keys := metaKeys(name)
	record := encode(approval{ID: md.Trip.ID, At: time.Now().UTC().Truncate(time.Second)})
	if _, err := etcdrpc.Do(ctx, DefaultRequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return target.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(keys.trip()), ">", 0)).Then(clientv3.OpPut(keys.approval(), string(record))).Commit()
	}); err != nil {
		return nil, unavailable("target", "writing "+keys.approval(), err)
	}
	return md.Trip, nil
}

// deletions watches the number of keys. It is used by the goroutine that applies.
type deletions struct {
	guard DeletionGuard
	// peaks are the numbers of keys that no later one exceeds, falling, within the window.
	peaks []peak
	// approved is the source revision up to which deletes were approved.
	approved int64
}

type peak struct {
	at   time.Time
	keys int64
}

// note takes the present number of keys.
func (d *deletions) note(now time.Time, keys int64) {
	for len(d.peaks) > 0 && d.peaks[len(d.peaks)-1].keys <= keys {
		d.peaks = d.peaks[:len(d.peaks)-1]
	}
	d.peaks = append(d.peaks, peak{now, keys})
	for len(d.peaks) > 1 && now.Sub(d.peaks[0].at) > d.guard.Window {
		d.peaks = d.peaks[1:]
	}
}

// trips reports whether the number of keys may not fall to left, and the highest number in the window.
func (d *deletions) trips(left int64) (peak int64, trips bool) {
	if d.guard.Off || len(d.peaks) == 0 {
		return 0, false
	}
	peak = d.peaks[0].keys
	lost := peak - left
	return peak, lost >= int64(d.guard.Count) && float64(lost) >= d.guard.Share*float64(peak)
}

// guardDeletes waits for approval if applying a part of the source up to a revision would leave too few keys. key is one that would go.
func (m *Mirror) guardDeletes(ctx context.Context, until, left int64, key string) error {
	d := m.deletions
	m.deletions.note(time.Now(), m.writer.held)
	peak, trips := d.trips(left)
	if !trips || until <= d.approved {
		m.dropTrip()
		return nil
	}
	trip := &Trip{SourceRevision: m.writer.record.SourceRevision, Keys: peak, Left: left, Key: key, At: time.Now().UTC().Truncate(time.Second)}
	if trip.ID = fmt.Sprintf("%s-%d", m.writer.id, m.writer.record.Seq); m.trip != nil {
		trip.ID = m.trip.ID // not approved in an earlier term, or while the mirror was away
	}
	keys := metaKeys(m.cfg.Name)
	// With what is noted of the target: this checkpoint says that it is, and the next one may be long in coming.
	if err := m.saveTail(ctx, []change{{key: keys.trip(), value: encode(trip)}}, m.writer.within(), AppliedInfo{}); err != nil {
		return err
	}
	m.trip = trip
	m.track.update(func(s *Status) { s.Trip = trip })
	m.log.Error("stopped: "+trip.String(), LogKeyReason, "approve it, or, if it is a mistake, stop the mirror or promote the target, which still has the keys")
	hook.Call(m.cfg.Hooks.Tripped, *trip)
	if err := m.awaitApproval(ctx, trip); err != nil {
		return err
	}
	m.log.Warn("mass deletion approved", LogKeyRevision, m.track.status().SourceRevision)
	d.approved = max(until, m.track.status().SourceRevision)
	d.peaks = nil
	return m.saveTail(ctx, []change{{key: keys.trip(), del: true}, {key: keys.approval(), del: true}}, m.writer.within(), AppliedInfo{})
}

// dropTrip forgets a trip of an earlier term: the source has made up for it since, or a copy has done what it was about.
func (m *Mirror) dropTrip() {
	if m.trip == nil {
		return
	}
	m.trip = nil
	keys := metaKeys(m.cfg.Name)
	m.later(change{key: keys.trip(), del: true})
	m.later(change{key: keys.approval(), del: true})
}

// awaitApproval returns when somebody has approved a trip.
func (m *Mirror) awaitApproval(ctx context.Context, trip *Trip) error {
	const interval = 500 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	defer func() {
		m.trip = nil
		m.track.update(func(s *Status) { s.Trip = nil })
	}()
	for {
		resp, err := etcdrpc.Do(ctx, m.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return m.target.Get(ctx, metaKeys(m.cfg.Name).approval())
		})
		reason := "guard: " + trip.String() + "; approve it, or, if it is a mistake, stop the mirror or promote the target, which still has the keys"
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			reason += " (target: " + explain(err) + ")"
		case len(resp.Kvs) > 0:
			var given approval
			if json.Unmarshal(resp.Kvs[0].Value, &given) == nil && given.ID == trip.ID {
				m.track.working()
				return nil
			}
		}
		m.track.waiting(reason)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if md, err := m.writer.read(ctx); err == nil && (md == nil || md.Checkpoint.Writer != m.writer.id || md.Checkpoint.Phase == PhasePromoted) {
			return m.writer.fenced(ctx)
		}
	}
}
