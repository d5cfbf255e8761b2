package history

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkCheckAll checks 10,000 revisions over 5,000 keys, faithfully mirrored one by one.
func BenchmarkCheckAll(b *testing.B) {
	const revs, keys = 10_000, 5_000
	rng := rand.New(rand.NewPCG(1, 2))
	src, dst := &Recorder{}, &Recorder{}
	versions := map[string]Event{}
	for rev := int64(2); rev < revs+2; rev++ {
		var s, d Revision
		s.Rev, d.Rev = rev, rev
		for i := range 1 + rng.IntN(5) {
			key := fmt.Sprintf("/registry/configmaps/team/%05d", (rng.IntN(keys/5)*5)+i)
			e := versions[key]
			if e.Key == "" {
				e = Event{Key: key, Create: rev, UID: key, Owners: []string{fmt.Sprintf("/registry/configmaps/team/%05d", i)}}
			}
			e.Mod, e.Version = rev, e.Version+1
			e.Value = newValue(fmt.Appendf(nil, "%d", rev), -1)
			versions[key] = e
			s.Events, d.Events = append(s.Events, e), append(d.Events, e)
		}
		d.Events = append(d.Events, Event{Key: "cp", Create: 2, Mod: rev, Value: newValue(fmt.Appendf(nil, "%d", rev), -1)})
		src.revs, dst.revs = append(src.revs, s), append(dst.revs, d)
		src.seen, dst.seen = rev, rev
	}
	o := Options{CheckpointKey: "cp", Decode: func(v []byte) (rev int64, consistent, ok bool) {
		n, _ := fmt.Sscan(string(v), &rev)
		return rev, true, n == 1
	}}
	for b.Loop() {
		if err := CheckAll(src, dst, o); err != nil {
			b.Fatal(err)
		}
	}
}
