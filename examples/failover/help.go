package main

const settingsHelp = `Each flag may also be an environment variable (UNDERSTUDY_JOURNAL for --journal), which the flag overrules.
`

const exitHelp = `Exit codes:
  0    done; dry-run: nothing keeps the run from its first act; status: read
  1    the run stopped: a step is blocked, failed, was rejected or is not verified; it can be resumed or undone
  2    bad usage, an unusable inventory or journal, a plan that changed; nothing was changed
  3    with --no-wait: the run waits for a person
  4    dry-run: something keeps the run from its first act
  5    it failed, and everything was undone
  130  interrupted; it can be resumed
`

// planHelp is about the commands that make a plan.
const planHelp = `The runbooks:
  setup             two clusters become a pair: rules for their installation, DNS, encryption keys, mirror
  switchover        planned: the standby takes over, no acknowledged write is lost, the old primary becomes the standby
  failover          unplanned: the primary is dead; the stated loss is accepted by a person
  failback          the old primary has returned: what it had not sent is exported, it is made the standby, and takes over again
  drill             the standby is promoted and demoted again, while the primary serves
  stretch-restore   a stretched cluster has lost its quorum: etcd and GlusterFS are made writable with what is left
  stretch-failback  the lost members return

Primary and standby are what the clusters are when the plan begins: after a switch the inventory's two lines are exchanged, or
--primary and --standby given.
`

// details are what the help of a command says beside its flags.
var details = map[string]string{
	"plan": planHelp + `
Nothing is contacted, but for the login of an etcd with user and password, and nothing is changed. The hash stands for the plan with all that decides what its steps do: approvals are
bound to it, and a journal is for one plan only.
`,
	"dry-run": planHelp + `
Asks every step how far it is, for real, and says what a run would do. Nothing is written anywhere. Run it after every change
of certificates, keys, tokens and names, not only on the day.
`,
	"run": planHelp + `
Carries the plan out, step by step, and writes into the journal what it is about to do before it does it. Killed at any instant,
run or resume goes on where it was. On a terminal the steps are in view, otherwise in the log.

It waits for what people have to decide, in another shell by failover approve; what to type is shown. With --no-wait it ends
instead. A step that fails stops the run, or undoes everything, as the plan says; a stopped run is resumed when the cause is
put right, or undone.
`,
	"resume": `As run, but only where there is a run to go on with. The inventory must make the same plan.
`,
	"approve": `Approves the plan, or a step of it; or with --reject, --accept-loss, --confirm and --undone decides otherwise. A decision is bound to the
hash of the plan that was looked at, is made in a role, and expires. It is left beside the journal, whether a runner runs or not.
Who may write there may decide.
`,
	"undo": `Takes back what a run has done, in reverse order, up to the point of no return, beyond which it refuses unless told otherwise
by --to or --partial.
`,
	"status": `Reads the journal, without disturbing its runner. With --output json, one object: plan, title, hash, mode, journal (its ID), state
(new, running, undoing, waiting, stopped, ended), outcome (completed, undone, rehearsed), detail, step, next, waiting (step, for,
role, detail, loss, since), runs, began, updated (RFC 3339), steps[] (name, kind, state, detail, attempts, began, ended) and
pointOfNoReturn (step, passed). A journal alone cannot tell whether a runner that did not end still lives.
`,
	"inventory": `Prints an inventory with comments, from which to begin.
`,
}
