package drcheck_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
)

// TestNoValueIsEverShown makes every class of difference out of values that all hold one word, and looks for the word in all that a check, a repair and a verdict say.
func TestNoValueIsEverShown(t *testing.T) {
	const word = "PlainTextOfASecret"
	s := newSides(t)
	value := func(kind, name string) string {
		return object(kind, name, "uid-"+name, ownedBy("v1", "Node", "gone", "uid-gone"), fmt.Sprintf(`,"data":{"password":%q}`, word))
	}
	all := map[string]string{}
	for _, name := range []string{"missed", "different", "status", "broken", "sealed"} {
		all["/registry/secrets/ns/"+name] = value("Secret", name)
	}
	all["/registry/secrets/ns/cut"] = value("Secret", "cut")[:90] + word
	s.fill(s.source, all)
	m := s.mirror(etcdmirror.Config{})
	s.sync(m)
	s.delete(s.target, "/registry/secrets/ns/missed")
	s.put(s.target, "/registry/secrets/ns/different", strings.Replace(value("Secret", "different"), word, word+"2", 1))
	s.put(s.target, "/registry/secrets/ns/broken", "k8s\x00"+word)
	s.put(s.target, "/registry/secrets/ns/sealed", sealed("other", "1234", word))
	s.put(s.target, "/registry/secrets/ns/own", value("Secret", "own"))

	var said bytes.Buffer
	c := s.checker(drcheck.Config{Name: "test", Logger: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug})),
		OpenTarget: func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("no key opens it") }})
	result, err := c.Check(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if result.Count.Missed != 1 || result.Count.Different != 3 || result.Count.Surplus != 1 {
		t.Fatalf("%+v", result.Count)
	}
	plan, err := c.PlanRepair(s.ctx, result, drcheck.RepairOptions{DeleteAllSurplus: true})
	if err != nil {
		t.Fatal(err)
	}
	s.put(s.source, "/registry/secrets/ns/different", word) // what has changed since is told, too
	report, err := c.Repair(s.ctx, plan)
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := drcheck.ReadVerdict(s.ctx, s.target, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(result.WriteText(&said), verdict.WriteText(&said)); err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{result, plan, report, verdict} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		said.Write(data)
		fmt.Fprintf(&said, "%+v", v)
	}
	// Damaged metadata is refused in words of its own.
	m.stop()
	for _, key := range []string{"checkpoint", "identity"} {
		s.put(s.target, metadata+"test/"+key, `{"v":"`+word+`"`)
		_, checkErr := c.Check(s.ctx)
		_, verdictErr := drcheck.ReadVerdict(s.ctx, s.target, "test")
		if !errors.Is(checkErr, drcheck.ErrMetadata) || !errors.Is(verdictErr, drcheck.ErrMetadata) {
			t.Errorf("damaged %s: %v, %v", key, checkErr, verdictErr)
		}
		fmt.Fprintln(&said, checkErr, verdictErr)
	}
	if i := strings.Index(said.String(), word); i >= 0 {
		t.Errorf("a value is shown: %.200q", said.String()[max(i-150, 0):])
	}
	if !strings.Contains(said.String(), "/registry/secrets/ns/sealed") {
		t.Error("not even keys are shown: the test looks at nothing")
	}
}
