// Package failover carries out a switch of roles as a plan that survives a crash: dry-run first, approved, journaled, resumable after kill -9, and undone up to a stated point of no return.
//
// A Plan is a list of Steps, frozen and hashed with all that they say about themselves. A Runner carries it out and writes each intent into a Journal before it acts.
// Whatever happens to it, Run goes on where it was: what the world looks like, each step's Observe tells again.
//
//	plan, err := failover.NewPlan(failover.PlanConfig{Name: "switchover", Steps: steps})
//	…
//	err = plan.WriteTable(os.Stdout)                              // or WriteMarkdown, for the change ticket, or WriteJSON
//	report, err := plan.DryRun(ctx, failover.DryRunOptions{})     // observes every step, does nothing
//	…
//	runner, err := failover.New(plan, failover.Config{Journal: "/var/lib/understudy/switchover.journal"})
//	…
//	err = runner.Run(ctx)                                         // begins, or resumes
//
// # What it promises
//
// Before Do or Undo of a step is called, its intent is on the disk, and in the copy where that is required. After a crash at any instant, Observe decides whether Do is called (again): a step whose effect
// Observe sees is not repeated, and no step is skipped. What Do and Undo return does not count alone: Observe has to see the effect, or its absence.
// A step that the journal has finished is not looked at again, because a later one may have changed what it left; a dry run with DryRunOptions.Journal tells which of them look otherwise now.
// A journal is for one plan: another, or one of which a step, an input or the order changed, is refused (ErrPlanChanged) with the names of what changed. One runner at a time has a journal (ErrBusy).
// A torn last line is what a crash may leave, and is cut off; any other damage is an error. A dry run writes nothing anywhere.
//
// # Steps
//
// A Step has a name, Observe and Do. More it offers by optional interfaces: Describer (what it does and with which inputs: this is what the hash covers, so a step without it is covered by its name alone),
// Verifier, Undoer, Approver, Timeouter, Retrier; Ungraceful and Driller give variants for a dead primary and for drills. A Gate only looks, such as at a verdict. A Prompter is a person's task.
// Funcs makes steps from funcs, Check gates, Ask prompts.
//
// Within Do and Undo a step can Save what it has to know later, such as what was there before, and write a Note into the journal; Load, LoadFrom and Began read what is known, in Observe as well; Report tells how far it is.
// The methods of one step are called one after another, and those of several steps too. A method returns soon after its context has ended: until it does the journal stays locked, and the step is overdue.
//
// A procedure that goes from node to node, such as the restart of API servers one by one, is a step per node: names like apiserver/10.0.0.1 tell them apart, and a crash between two costs nothing.
// A step with several effects says Partial while only some of them are there.
//
// # Point of no return
//
// A step that acts and is no Undoer cannot be undone, and the plan says so. Undo refuses to begin if such a step was carried out (ErrPointOfNoReturn), because half of a switch undone is mostly worse than the whole:
// UndoOptions.To and Partial undo what came after it, for who knows better. Of such a step that was begun and not finished Observe decides: Pending means that nothing has happened that cannot be taken back.
// Only what the run has done is undone: not what was found done. A step can find out while it is undone that it cannot be any more, such as because somebody has written meanwhile: it returns ErrPointOfNoReturn,
// the undoing ends there, and the run can go forward and do again what was undone.
//
// With FailureUndo a step that fails, is blocked, rejected or not verified leads to undoing everything, unless the point of no return has been passed: then the run stops, and goes forward when the cause is put right.
//
// # Modes
//
// In ModeGraceful every gate is hard. In ModeUngraceful, without the primary, steps come in their variants for it, and a gate that states a loss can be passed by accepting that loss, word for word;
// who did that, when, is in the journal. ModeDrill takes variants for drills and undoes everything in the end; a plan with a step that cannot be undone is no drill.
//
// # Persons
//
// Approvals, rejections, acceptances and confirmations are Decisions: bound to the plan's hash, in a role, for a time. Decide leaves one in a folder beside the journal, whether a runner runs or not; the runner takes it into
// the journal, as counting or as refused, with the reason. A step's approval is held against hash, role and time again at each attempt, the plan's when a runner begins to act, also after a resumption. A refused or expired decision changes nothing: the run waits.
// The package does not know people: who may write beside the journal may decide, unless Config.Authorize says otherwise.
//
// # Journal
//
// The journal is a file of lines in JSON, each with a checksum that covers the line before, appended and synced. It can be read at any time (ReadJournal) and shown as a timeline. docs/failover-plan.md describes both JSONs.
// With Config.Copy each record also goes to an etcd, below CopyPrefix, where mirrors and checks leave it alone. The file counts; RestoreJournal makes a lost one anew from its copy. If the etcd cannot be reached, the run notes it,
// goes on and catches up, or stops, as CopyConfig.Policy says. Old copies are not removed: delete their keys when they are no longer wanted.
//
// # Secrets
//
// Descriptions, observations, notes, errors and saved values go into journal, copy, logs and renderings as steps give them (saved values only into journal and copy). Steps mask secrets; inputs name where they come from.
// Control characters are replaced, and long texts cut.
//
// # What it does not do
//
// It does not stop a Do that ignores its context, retry what the step does not allow to be retried, or prove who a person is. Without a copy, or with one that cannot be reached, two runners on different hosts
// with different files are not kept apart. It needs file locks that end with the process (flock): Linux, macOS and the BSDs.
package failover
