// Package understudy keeps a second Kubernetes control plane ready to take over: it mirrors the primary cluster's etcd into the
// standby cluster's live etcd, proves that the copy is right, and ends the mirroring for good when the standby is promoted.
//
// The module is a library first; the binaries under examples are thin. Its packages:
//
//   - [github.com/understudy-dr/understudy/etcdmirror]: the engine. Base copy, tail, resync after compaction, checkpoint, epoch fence, status.
//   - [github.com/understudy-dr/understudy/drcheck]: comparison of both sides during traffic, with reasons; repair; what a standby tells of a dead primary.
//   - [github.com/understudy-dr/understudy/failover]: the switch of roles as a plan: dry-run, approved, journaled, resumable after a crash, undone up to a point of no return.
//   - [github.com/understudy-dr/understudy/keyfilter]: the grammar of Kubernetes keys in etcd, and rules that say which of them are mirrored, and why.
//   - [github.com/understudy-dr/understudy/encryption]: two clusters' encryption at rest: transcoding between them, or one merged configuration and its roll-out; audit, relabelling.
//
// They do not depend on one another: a mirror and a check take any func([]byte) bool as its filter, and keyfilter provides one.
//
//	filter, err := keyfilter.New(keyfilter.Config{}) // the documented defaults
//	...
//	mirror, err := etcdmirror.New(source, target, etcdmirror.Config{
//		Name: "primary-to-standby",
//		Keep: filter.Match, KeepID: filter.Hash(), Skip: filter.Skips(etcdmirror.DefaultPrefix),
//	})
//	...
//	err = mirror.Run(ctx)
//
// The README has the whole program, the promises with the tests that show them, and the limits.
package understudy
