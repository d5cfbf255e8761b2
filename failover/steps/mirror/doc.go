// Package mirror has the steps around the mirror and the check: those that make a switch of roles lose nothing when it is planned, no more than was stated when it is not, and nothing unnoticed on the way back.
//
// Their order in a planned switch is
//
//	VerdictGate     the standby is proven to hold what the primary holds
//	Quiesce         the primary takes no writes any more (the time without writes begins)
//	Drain           the standby holds all up to the primary's last revision
//	StopMirror      no instance of the mirror runs
//	EpochFence      the standby is promoted: it refuses every mirror that wrote to it
//	RevisionFence   no resourceVersion of the primary means anything at the standby but "gone"
//	…               restart API servers, move clients (the time without writes ends)
//	Reopen          where the gate is in the primary's etcd
//	StartReverse    the old primary is the standby
//
// In a plan without the primary, Quiesce, Drain, Reopen and StartReverse are left out, and VerdictGate states the loss. When the old primary returns, a failback begins with DifferenceReport and StartReverse
// (with Differences and PointOfNoReturn); once its copy is complete, the roles are switched again as planned.
//
// # Points of no return
//
// Each of these steps can be undone, in reverse order, until somebody writes to the promoted standby: from then on undoing EpochFence would lose that, and is refused. StartReverse is one by configuration.
//
// # What they act on
//
// A Pair is the two etcds with what is between them. What the standby tells of its mirror, fences, checks and running mirrors come through the small interfaces Records, Verdicts, Control, Waiter and Gate; package
// engine connects them to etcdmirror and drcheck, and func values to anything else. So this package brings nothing but etcd's client.
//
// Observations, notes and the difference report name keys, never values.
package mirror
