package main

import (
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/understudy-dr/understudy/examples/internal/connect"
)

const settingsHelp = `Each flag may also be an environment variable (UNDERSTUDY_SOURCE_ENDPOINTS for --source-endpoints) or a field of the
YAML file given by --config (source-endpoints). A flag wins over the environment, the environment over the file.
`

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

func printHelp(w io.Writer) {
	fmt.Fprint(w, "mirror keeps a standby's etcd equal to a primary's, and switches roles.\n\nUsage: mirror <command> [flags]\n\nCommands:\n")
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %-9s%s\n", cmd.name, cmd.summary)
	}
	fmt.Fprintf(w, "  %-9s%s\n\n%s\n%s", "help", "this, or the flags of a command: mirror help run", settingsHelp, exitHelp)
}

func help(w io.Writer, args []string) error {
	if len(args) == 0 {
		printHelp(w)
		return nil
	}
	for _, cmd := range commands() {
		if cmd.name != args[0] {
			continue
		}
		fmt.Fprintf(w, "mirror %s: %s\n", cmd.name, cmd.summary)
		if text := details[cmd.name]; text != "" {
			fmt.Fprintf(w, "\n%s", text)
		}
		if cmd.settings != nil {
			fmt.Fprint(w, "\nFlags:\n")
			printFlags(w, cmd.settings())
			fmt.Fprintf(w, "\n%s", settingsHelp)
		}
		return nil
	}
	return badUsage("", fmt.Sprintf("%q is no command", args[0]), "see mirror help")
}

// printFlags lists flags, each with its description below it.
func printFlags(w io.Writer, s *connect.Settings) {
	s.Flags.VisitAll(func(f *flag.Flag) {
		value, description := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			description += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(w, "  %s\n        %s\n", strings.TrimSpace("--"+f.Name+" "+value), description)
	})
}
