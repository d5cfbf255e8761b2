package history

import "fmt"

// CheckCheckpoints holds the checkpoint's own history against two rules: its source revision never goes back within one epoch,
// nor does the epoch; and in a consistent phase every revision in which the mirror changes data also writes the checkpoint.
func CheckCheckpoints(target *Recorder, o Options) error {
	found := &ViolationsError{Check: "checkpoints"}
	cps := o.checkpoints(target)
	if len(cps) == 0 {
		found.add(Violation{Kind: KindNoCheckpoint, Key: o.CheckpointKey})
	}
	var last checkpoint
	for _, rev := range target.Revisions() {
		written := false
		for ; len(cps) > 0 && cps[0].targetRev == rev.Rev; cps = cps[1:] {
			c := cps[0]
			written = true
			if c.bad != "" {
				found.add(Violation{Kind: c.bad, TargetRev: rev.Rev, Key: o.CheckpointKey})
				last.consistent = false
				continue
			}
			detail := fmt.Sprintf("from revision %d of epoch %d to %d of epoch %d", last.sourceRev, last.epoch, c.sourceRev, c.epoch)
			switch {
			case c.epoch < last.epoch:
				found.add(Violation{Kind: KindEpochBack, TargetRev: rev.Rev, SourceRev: c.sourceRev, Key: o.CheckpointKey, Detail: detail})
			case c.epoch == last.epoch && c.sourceRev < last.sourceRev:
				found.add(Violation{Kind: KindRevisionBack, TargetRev: rev.Rev, SourceRev: c.sourceRev, Key: o.CheckpointKey, Detail: detail})
			}
			last = c
		}
		if written || !last.consistent || o.foreign(rev.Rev) {
			continue
		}
		for i := range rev.Events {
			if key := rev.Events[i].Key; o.compared(key) {
				found.add(Violation{Kind: KindNotCheckpointed, TargetRev: rev.Rev, SourceRev: last.sourceRev, Key: key})
			}
		}
	}
	return found.result()
}
