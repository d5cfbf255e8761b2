package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// A repair says what it would do, does it when told to, deletes only what is named, and ends with the result of another check.
func TestRepair(t *testing.T) {
	p := mirrored(t, 10)
	key := func(i int) string { return fmt.Sprintf("/registry/configmaps/team-a/cm-%03d", i) }
	invoke(t, p.args("repair")...).want(t, 0, "source and target are equal", "0 to put, 0 to delete")
	invoke(t, p.args("repair", "--apply")...).want(t, 0, "0 to put")

	remove(t, p.targetC, key(0))
	put(t, p.targetC, "/registry/secrets/team-a/s", secret+"!")
	for _, own := range []string{"a", "b", "c \"d\""} {
		put(t, p.targetC, "/registry/configmaps/own/"+own, secret)
	}
	before := values(t, p.targetC)
	unchanged := func() {
		t.Helper()
		if diff := cmp.Diff(before, values(t, p.targetC)); diff != "" {
			t.Fatalf("the target changed:\n%s", diff)
		}
	}
	invoke(t, p.args("repair")...).want(t, exitDiffers, "differ in 5 keys: 1 missed, 3 surplus, 1 different", "to do: 2 to put, 0 to delete, 3 to leave", "  put     missed     "+`"`+key(0)+`"`,
		`  put     different  "/registry/secrets/team-a/s"`, `"/registry/configmaps/own/c \"d\"": surplus keys are deleted only if they are named`, "nothing was written; to do it, add --apply")
	invoke(t, p.args("repair", "--delete-all-surplus")...).want(t, exitDiffers, "2 to put, 3 to delete, 0 to leave", `  delete  surplus    "/registry/configmaps/own/a"`)
	invoke(t, p.args("repair", "--apply", "--delete-all-surplus", "--max-deletes", "2")...).want(t, exitNoAnswer, "--max-deletes: too many deletions", "3 keys")
	unchanged()

	o := invoke(t, p.args("repair", "--apply", "--classes", "missed", "--output", "json")...).want(t, exitDiffers)
	var r repaired
	if err := json.Unmarshal([]byte(o.out), &r); err != nil {
		t.Fatalf("%v:\n%s", err, o.out)
	}
	if r.Check.Count.Total() != 5 || r.Plan.Puts != 1 || len(r.Plan.Skipped) != 4 || r.Report.Put != 1 || r.After.Count != (drcheck.Count{Surplus: 3, Different: 1}) {
		t.Errorf("got %s", o.out)
	}
	before[key(0)] = "v"
	unchanged()

	list := writeFile(t, "surplus", "/registry/configmaps/own/a\r\n\n\"/registry/configmaps/own/c \\\"d\\\"\"")
	invoke(t, p.args("repair", "--apply", "--delete-surplus-file", list)...).want(t, exitDiffers, "planned: 1 to put, 2 to delete, 1 to leave", "done: 1 put, 2 deleted, 0 skipped", "LOCAL ETCD surplus keys: 1")
	before["/registry/secrets/team-a/s"] = secret
	delete(before, "/registry/configmaps/own/a")
	delete(before, "/registry/configmaps/own/c \"d\"")
	unchanged()
	invoke(t, p.args("repair", "--apply", "--delete-all-surplus", "--max-deletes", "1")...).want(t, 0, "done: 0 put, 1 deleted", "Equal: the target holds all")
	source := values(t, p.sourceC)
	delete(source, "/registry/leases/kube-node-lease/n1")
	if diff := cmp.Diff(source, values(t, p.targetC)); diff != "" {
		t.Errorf("source and target differ:\n%s", diff)
	}
}

// More differences than --limit take another repair.
func TestRepairInParts(t *testing.T) {
	p := mirrored(t, 10)
	for i := range 5 {
		remove(t, p.targetC, fmt.Sprintf("/registry/configmaps/team-a/cm-%03d", i))
	}
	invoke(t, p.args("repair", "--apply", "--limit", "3")...).want(t, exitDiffers, "2 more differences are beyond --limit", "done: 3 put", "LOCAL ETCD missed keys: 2")
	invoke(t, p.args("repair", "--apply", "--limit", "3")...).want(t, 0, "done: 2 put")
}

// A promoted target is nobody's standby.
func TestRepairOfAPromotedTarget(t *testing.T) {
	p := mirrored(t, 3)
	remove(t, p.targetC, "/registry/configmaps/team-a/cm-000")
	if _, err := etcdmirror.Promote(testutil.Context(t), p.targetC, "default", etcdmirror.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	before := values(t, p.targetC)
	invoke(t, p.args("repair", "--apply")...).want(t, exitNoAnswer, "--name: target: target is promoted")
	// Nor may the fence be gone around by not naming the mirror.
	if o := invoke(t, p.args("repair", "--apply", "--name", "")...).want(t, exitNoAnswer, "--name: "); strings.Contains(o.out, "put") {
		t.Errorf("got %s", o.out)
	}
	if diff := cmp.Diff(before, values(t, p.targetC)); diff != "" {
		t.Errorf("the promoted target was touched:\n%s", diff)
	}
}
