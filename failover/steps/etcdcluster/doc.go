// Package etcdcluster has steps that change the membership of an etcd cluster: a new cluster from the survivor of a lost quorum, and members removed and added back, one at a time.
//
// The order of a recovery, where one data centre of a stretched cluster is lost with the majority of the members:
//
//	QuorumLost   a gate: the survivors have no quorum, and none of the dead answers
//	Fence        a person keeps the dead from coming back as a cluster of their own
//	Backup       the survivor's database, in a file, with its checksum
//	Force        stops the survivors, makes one of them a cluster of its own, and leaves no flag behind
//	Health       a gate: the members that should be there are, and hold the same
//
// and of the way back: Remove for members that are listed and lost, Add for each that returns, MoveLeader where the leader belongs elsewhere, Health.
//
// # What is lost, and what can go wrong
//
// Forcing keeps what the survivor knows to be committed. Writes that the dead members acknowledged and the survivor has not heard of are gone: nobody can tell how many from the survivor's side.
// Choose tells which of several survivors knows most, and QuorumLost refuses another.
//
// The cluster keeps its ID, and the dead keep a majority of the old one. If they start again on their data they are a second cluster that takes writes, and no etcd notices. From the survivors' side
// a dead data centre and one behind a cut line look the same: QuorumLost cannot tell them apart, so Fence asks a person.
//
// # Clients
//
// Each member comes with a client of its own, with one endpoint, made and closed by the caller: TLS and users are theirs. Names, peer URLs and clients are held against what the member
// says about itself. Where etcd's authentication is on, members are changed and snapshots taken by a user with the role root; without a quorum nobody can log in by password, since a login is a
// proposal: use client certificates.
//
// # Machines
//
// Member is how a member's process is stopped, configured and started: Systemd for a service with an environment file, StaticPod for a manifest that the kubelet watches, MemberFuncs for anything else.
// Data is never deleted: it is moved aside in its own folder, which has to have the space for both.
package etcdcluster
