// Package steps has no code of its own: the folders below it hold ready-made steps of package failover, each driving something real.
// They are packages apart, so that a program that changes a DNS record does not carry a Kubernetes client.
//
//	mirror       gates on the check's verdict, quiesce, drain, epoch and revision fence, reversal, difference report
//	network      TCP ports, round-trip times, HAProxy's runtime API, keepalived
//	dns          a record by RFC 2136 with TSIG, or by a provider of one's own, and what resolvers answer
//	nodes        commands and files on machines, by ssh or locally
//	kube         pods by label, deployments, a check from inside, API servers one by one; kube/posture: is a standby fit to be mirrored into
//	etcdcluster  membership of an etcd cluster: a new one from the survivor, members removed and added back
//	glusterfs    the quorum options of volumes
//	rollout      the phases of a roll-out of encryption keys
//
// # Conventions
//
// A step is made from a Config by a func that validates it and returns (failover.Step, error), or several steps where a procedure goes from node to node, one step each.
// What is wrong with a Config is a *failover.Error of the kind failover.ErrConfig that names the field and what to do; nothing is contacted before Observe.
// Config.Name is the step's name where a plan needs another than the default; Config.Reference says where the step comes from, such as a paragraph of a procedure.
// A step describes all that decides what it does, without secrets. What it changes it can take back, unless it says so.
package steps
