// Package glusterfs has steps that set the quorum options of GlusterFS volumes, so that a replica that is left alone takes writes, and put them back.
//
// SetQuorum remembers what each volume had, and what it had not: an option that was not set is reset, not set to its default. Its Undo goes back to that within the plan. Weeks later, when the
// other site is there again, RestoreQuorum does so in another plan, from the file that SetQuorum has exported.
//
// With a quorum of one, each part of a split cluster takes writes on its own: only one of them may be reachable for clients. See
// https://docs.gluster.org/en/latest/Administrator-Guide/arbiter-volumes-and-quorum/ for the options.
package glusterfs
