package main

const exitHelp = `Exit codes:
  0    ended cleanly; promote: the target is promoted, now or before
  1    any other failure, such as an unknown mirror or an incomplete copy
  2    bad usage or configuration; nothing was changed
  3    an etcd is unreachable: no answer, or the TLS handshake failed
  4    an etcd refused the user: login or permission
  5    fenced: the target was promoted, or the mirror's metadata was removed
  6    refused identity: same cluster, swapped direction, another or rewound source, other prefixes
  7    nothing to do: demote: the target is not promoted; approve: no approval is waited for
  130  interrupted: run by a second signal, other commands by the first
`

// details are what the help of a command says beside its flags.
var details = map[string]string{
	"run": `Copies what the rules keep from source to target and follows the source until SIGTERM or SIGINT, which end it with exit
code 0. Started again, it goes on where it was.

Several instances may run under one name: one of them leads and writes, the others wait, --exit-after-copy included. When
the leading one ends, another takes over at once; when it is killed or cut off, after --session-ttl.

The target's own controllers may touch mirrored keys. Those that they change or delete are reported or, with --drift
repair, put back; keys that they make are theirs and stay. Both are listed by mirror status --keys.

When so many keys vanish from the source that somebody may have emptied it, the mirror stops before the target loses them,
and goes on after mirror approve.

Leases are dropped: a key with a TTL stays at the target until the source deletes it. With --leases mirror the target gets
the same leases, which run out after a promotion. Changed from one to the other, the mirror compares everything.

With --check-interval the leading instance compares source and target, that long after the tail began and after each
comparison. The outcome is logged, and recorded at the target for drcheck verdict.

With --http-listen it serves, to whoever can connect; no value of any key, but names of keys are shown:
  /healthz              200 while the process lives
  /readyz               200 while the target is less than --ready-lag behind, or this instance waits to take over; else 503
                        and why
  /check                source and target are compared now; ?format=json is for programs, and with ?max-age=10m a result that
                        is not older than that will do
  /metrics              for Prometheus
  /status               one JSON object:
    name, epoch, leader, appliedRevision, sourceHead, missingRevisions, lastBulkRevision, keysHeld, leaseCount,
    foreignCount, guardedCount, driftCount, driftUnlisted, trip (stoppedAt, keys, left, nextKey)
                        as of mirror status
    state, reason       idle, starting, replica, base copy, resync, catching up, tail, waiting, stopped; and why
    leading             this instance is the one that writes
    savedRevision       the appliedRevision that the checkpoint at the target has
    lagSeconds          how long appliedRevision has been behind sourceHead
    sourceContactAt, targetContactAt     when each side last answered (RFC 3339)
    targetRevision      of the last transaction
    copy                the last copy, if there was one: round; listed keys; of them looked at and toWrite; toDelete and
                        deleted; beganAt, endedAt
    puts, deletes, bytes, filtered, transactions, splits, resyncs, reconnects, repairs, fights
                        counts since the start, as the metrics of these names
    check               comparisons: mode, intervalSeconds, running, checks (how many), lastOutcome (equal, differs,
                        failed), lastError, lastEqualAt; last is the last result: began, ended, equal, count (missed,
                        surplus, different, accepted), sourceRevision, targetRevision, sourceKeys, targetKeys, bytes, rechecked

With --pprof it also serves profiles of this program below /debug/pprof/, at the same address, for go tool pprof: profile
(of the CPU, ?seconds=30), heap, allocs, goroutine, threadcreate; and trace for go tool trace. They hold names of functions,
addresses, sizes, counts and times: no content of memory, so no key and no value. What might show more is not served: heap
dumps, the command line, stacks with arguments (?debug=2). A profile takes five minutes at most and slows the program down
a little: leave it off where anybody may connect.
`,
	"status": `Reads the metadata that mirrors keep at the target. The source is not needed. With --output json, one object:
  mirrors[]               one for each mirror, sorted by name:
    name                  of the mirror
    phase                 base, resync: a copy is under way; tail: the target equals the source at appliedRevision;
                          partial: as tail, and a part of the next revision is there, too; promoted; armed: demoted, and
                          no mirror has begun since
    complete              the target equals, or equalled when promoted, the source at appliedRevision exactly
    epoch                 raised by each promotion and demotion
    leader                replica that leads, "" if no instance runs; replicas[]: those that wait, the next one first
    sourceClusterID, targetClusterID     hexadecimal, as etcdctl prints them
    sourcePrefix, targetPrefix           "" is the whole key space
    filterID, transformID                "" where there is none
    appliedRevision       of the source; 0: none yet
    sourceHead            highest source revision seen, at sourceHeadAt (RFC 3339)
    missingRevisions      seen and not applied; while a copy is unfinished, some of them may be
    checkpointAt          when the mirror last saved its progress (RFC 3339); checkpointAgeSeconds ago
    checkpointTargetRevision             the target revision that saved it
    lastBulkRevision      clients of the target with an older resourceVersion should list again; 0: none need to
    keysHeld, leaseCount  keys that the mirror holds at the target, and leases that it granted there for the source's
    foreignCount          keys of the kept space that the target's own cluster made
    guardedCount          keys whose value was kept from the target
    foreign[], guarded[]  these keys, with --keys; guarded ones as key and reason
    driftCount            mirrored keys that others changed or deleted at the target; driftUnlisted: there are more
    driftByKind           the same by kind: changed, deleted, replaced (deleted and made again), fought (put back too often)
    drift[]               the first 5 of these keys, all with --keys: key, kind, and the targetRevision that noted it
    trip                  present while a mass deletion stops the mirror: stoppedAt (RFC 3339); of so many keys, only left
                          would be left; nextKey would be the next to go
`,
	"promote": `Raises the fence at the target: from then on every write of its mirror is refused, one already under way included. It
needs no source, prints what is lost at most, and does nothing to a target that is promoted already (exit code 0).
`,
	"demote": `Makes a promoted target a standby again. The next mirror run compares everything with its source; keys that the target
made as a primary are kept, unless it runs with --surplus delete.
`,
	"approve": `Lets a mirror continue that was stopped by a mass deletion at its source: the deletes that the source has made by
the time the mirror learns of it are applied, later ones are counted anew. It needs no source, and the mirror need not run.
If the deletes are a mistake, do not approve: stop the mirror and restore the source, or promote the target, which still
has the keys.
`,
	"demo": `Loads the content of a real Kubernetes cluster into one etcd inside this process, mirrors it into another, changes it,
lets a controller of the target interfere, compares every kept key, kills the source, promotes the target and shows that a
late write is refused. Exit code 0 means that every check passed. It takes no flags and leaves no files.
`,
}
