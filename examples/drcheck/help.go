package main

const exitHelp = `Exit codes:
  0    check, repair: source and target are equal; verdict: it was told
  1    check, repair: they differ
  2    there is no answer: bad usage, an etcd that is unreachable or refuses the user, another mirror, a promoted target
  130  interrupted
`

// details are what the help of a command says beside its flags.
var details = map[string]string{
	"check": `Reads both sides in key order, through the rules and prefixes of the mirror, in bounded memory. A key that differs is looked
at again, at the source revision that the mirror says it has applied, so that a check during traffic raises no false alarm.
Nothing is written, but for a record of the outcome beside the mirror's metadata at the target, for drcheck verdict.

Give the flags of mirror run that say what is mirrored, or its file. With --name "" two etcds are compared between which no
mirror is known; then a key counts as different when both sides have left it unequal for --settle.

With --output json, one object, as package drcheck documents its Result.
`,
	"verdict": `Reads what the mirror and the checks have left at the target. The source is not needed. With --output json, one object, as
package drcheck documents its Verdict, and beside its fields:
  at                    the time of the disaster (RFC 3339), --at
  loss                  lost at most: revisions, which the mirror saw and did not apply; since (RFC 3339), all that the
                        source had committed by then is at the target; windowSeconds, from since to at; without since,
                        no such moment is known
`,
	"repair": `Checks as drcheck check does, and says what would put right what differs: missed and different keys are put, with what the
source has then, owners before their dependents; surplus keys are deleted only if they are named, or by
--delete-all-surplus. What a running mirror brings by itself, what a guard keeps away, and what the target's garbage
collector would delete again, is left alone, with the reason.

With --apply it is done, and checked again. Every write is fenced as the mirror's are: a promoted target refuses it.

With --output json, one object: check and, after --apply, after are results as of drcheck check; plan is what was to be done,
report what was done, both as package drcheck documents its RepairPlan and RepairReport.
`,
}
