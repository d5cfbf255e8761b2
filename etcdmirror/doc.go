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
// in the transaction of the data (P3). Deletes are not lost, whatever the gap (P4). A promotion refuses every later write of a mirror
// that wrote before, also one in flight (P6). A checkpoint is used only with the source, prefixes and filter it belongs to (P8).
// The target's limits split or delay writes, never drop them (P9). Owners come before what they own, and another object under
// an existing key is a delete and a put (P10). Memory is bounded by configuration and about 150 bytes per key (P14).
//
// # What it does not do
//
// It does not decode objects beyond their UIDs and owners, copy leases (keys with a TTL become permanent until the source deletes them),
// or write to the source, ever. Run one instance per mirror name: a second one takes over and the first ends with ErrFenced.
//
// # Permissions
//
// With etcd's authentication the source's user needs to read the prefix and MetadataPrefix; the target's to read and write its prefix and MetadataPrefix.
package etcdmirror
