// Package etcdmirror keeps the kept keys of one etcd, the target, equal to those of another, the source, while both are live.
//
// A Mirror first makes the target equal to the source (the base copy), then follows the source revision by revision (the tail).
// After an outage it continues from its checkpoint; where the source has compacted what it missed, it writes only the difference (a resync).
// Promote ends the mirroring for good when the target takes over.
//
// # What it promises
//
// With a quiet source and no other writer at the target, the kept keys of both sides are equal (P1). After the base copy, at every
// target revision that the mirror writes, the target's kept keys equal the source's at exactly the checkpoint's revision: transactions
// are not torn (P2), unless one exceeds the target's limits; then it comes in parts, which Status counts. The checkpoint commits
// in the transaction of the data (P3). Deletes are not lost, whatever the gap (P4), and keys that the target's own cluster made are never
// deleted (P5). Of several replicas one writes; it, and every mirror after a promotion, is refused as soon as it no longer leads, also with
// a write in flight (P6). Whatever stalls is opened again, and the state says what is waited for (P7). A checkpoint is used only with the source, prefixes and filter it belongs to (P8).
// The target's limits split or delay writes, never drop them (P9). Owners come before what they own, and another object under
// an existing key is a delete and a put (P10). While the target keeps up, no target revision of the tail holds two keys of one resource unless the source's did (P11).
// Values that would break an apiserver are not written, and a mass deletion waits for Approve (P12). Leases are dropped or mirrored (P13). Memory is bounded by configuration and about 150 bytes per key (P14).
//
// # What it does not do
//
// It does not decode objects beyond their framing, UIDs and owners, or write to the source, ever.
//
// # Speed
//
// A copy reads and writes side by side as far as the order allows, and a backlog is read by several watches (Config.CatchUpWatches). What the filter drops as a whole should be listed in
// Config.Skip: a source that is far away is then followed without it (Config.Watch).
//
// # Replicas
//
// Several instances with the same name and configuration may run against the same etcds. The target's etcd elects one; the others wait in StateReplica
// and one of them takes over when the leader ends (at once) or is silent for SessionTTL.
//
// # Drift
//
// Standby clusters are alive: their controllers create objects, and the garbage collector may delete mirrored ones. Config.Drift says what happens to mirrored keys that
// others change or delete; what others make is theirs. ReadMetadata lists both.
//
// # Permissions
//
// With etcd's authentication the source's user needs to read the prefix and MetadataPrefix; the target's to read and write its prefix and MetadataPrefix.
package etcdmirror
