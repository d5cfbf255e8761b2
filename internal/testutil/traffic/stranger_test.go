package traffic_test

import (
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/traffic"
)

// A stranger does the same with the same seed, damages only what it may, and finds what is done to its own keys.
func TestStranger(t *testing.T) {
	var first []string
	for range 2 {
		ctx, _, cli, rec := start(t, embedetcd.Options{})
		s := traffic.NewStranger(cli, "/registry/own/", 7)
		mirrored := func(key string) bool { return !strings.HasSuffix(key, "/not") }
		if err := s.Damage(ctx, "/registry/", mirrored); err != nil || s.Damages() != 0 {
			t.Fatalf("%d damages in an empty etcd, %v", s.Damages(), err)
		}
		for _, key := range []string{"/registry/a", "/registry/b", "/registry/c", "/registry/not"} {
			if _, err := cli.Put(ctx, key, "v"); err != nil {
				t.Fatal(err)
			}
		}
		filled := head(ctx, t, rec)
		for range 60 {
			if err := s.Act(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for range 6 {
			if err := s.Damage(ctx, "/registry/", mirrored); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Check(ctx); err != nil || s.Keys() < 5 {
			t.Fatalf("%d keys, %v", s.Keys(), err)
		}
		head(ctx, t, rec)
		var got []string
		kinds := map[string]int{}
		for _, rev := range rec.Revisions() {
			if rev.Rev <= filled {
				continue
			}
			for _, e := range rev.Events {
				got = append(got, e.Key)
				switch {
				case !s.Owns(e.Key):
					kinds["damage"]++
					if !mirrored(e.Key) {
						t.Errorf("key %q was damaged", e.Key)
					}
				case e.Delete:
					kinds["delete"]++
				case e.Version > 1:
					kinds["change"]++
				default:
					kinds["make"]++
				}
			}
		}
		if len(kinds) != 4 || kinds["damage"] < 2 || kinds["damage"] != s.Damages() {
			t.Errorf("it did %v, and counts %d damages", kinds, s.Damages())
		}
		if first == nil {
			first = got
		} else if strings.Join(first, " ") != strings.Join(got, " ") {
			t.Error("the same seed did something else")
		}

		resp, err := cli.Get(ctx, "/registry/own/", clientv3.WithPrefix(), clientv3.WithLimit(2))
		if err != nil || len(resp.Kvs) != 2 {
			t.Fatal(err)
		}
		for _, op := range []clientv3.Op{clientv3.OpDelete(string(resp.Kvs[0].Key)), clientv3.OpPut(string(resp.Kvs[1].Key), "x"), clientv3.OpPut("/registry/own/0", "x")} {
			if _, err := cli.Do(ctx, op); err != nil {
				t.Fatal(err)
			}
		}
		err = s.Check(ctx)
		for _, want := range []string{"was deleted", "was changed", `"/registry/own/0" of the target's own came back`} {
			if err == nil || strings.Count(err.Error(), want) != 1 {
				t.Errorf("%q is not told once: %v", want, err)
			}
		}
	}
}
