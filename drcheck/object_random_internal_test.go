package drcheck

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// randomJSON makes JSON objects and writes one object in many ways.
type randomJSON struct{ *rand.Rand }

// object has all that compareObjects looks at, and random members besides.
func (r randomJSON) object() map[string]any {
	meta := r.members(2)
	maps.Copy(meta, map[string]any{"name": "n", "managedFields": []any{r.tree(1)}, "resourceVersion": r.tree(0)})
	object := r.members(3)
	maps.Copy(object, map[string]any{"apiVersion": "g.io/v1", "kind": "K", "metadata": meta, "spec": r.members(3), "status": r.members(3)})
	return object
}

func (r randomJSON) members(depth int) map[string]any {
	object := map[string]any{}
	for range r.IntN(4) {
		object[r.text()] = r.tree(depth)
	}
	return object
}

func (r randomJSON) text() string {
	return []string{"a", "b", "ü", "\x00", "\"\\", "𝄞", "status", "metadata", "managedFields", "resourceVersion", ""}[r.IntN(11)] + strconv.Itoa(r.IntN(10))
}

// tree is a value: numbers are json.Number, at times too large for a float64.
func (r randomJSON) tree(depth int) any {
	n := 5
	if depth > 0 {
		n = 8
	}
	switch r.IntN(n) {
	case 0:
		return nil
	case 1:
		return r.IntN(2) == 0
	case 2:
		return r.text()
	case 3:
		return json.Number(strconv.FormatUint(r.Uint64(), 10))
	case 4:
		return json.Number(fmt.Sprintf("%d.%de%d", r.IntN(10), r.IntN(1000), r.IntN(500)))
	case 5, 6:
		return r.members(depth - 1)
	}
	array := []any{}
	for range r.IntN(4) {
		array = append(array, r.tree(depth-1))
	}
	return array
}

// edit changes one place in a tree.
func (r randomJSON) edit(v any) any {
	switch v := v.(type) {
	case map[string]any:
		names := slices.Sorted(maps.Keys(v))
		if len(names) > 0 && r.IntN(3) > 0 {
			name := names[r.IntN(len(names))]
			if r.IntN(3) == 0 {
				delete(v, name)
			} else {
				v[name] = r.edit(v[name])
			}
			return v
		}
		v["added"+strconv.Itoa(r.IntN(1e9))] = r.tree(1)
		return v
	case []any:
		if len(v) > 1 && r.IntN(2) == 0 {
			v[0] = r.edit(v[0])
			return v
		}
		return append(v, r.tree(1))
	case json.Number:
		last := v[len(v)-1]
		return v[:len(v)-1] + json.Number('0'+(last-'0'+1)%10)
	case bool:
		return !v
	}
	return "edited" + strconv.Itoa(r.IntN(1e9))
}

// write writes a tree with its members in any order, white space and escapes. At the twice-th member, counted from 1, it writes a member twice.
func (r randomJSON) write(b *strings.Builder, v any, twice *int) {
	space := func() { b.WriteString([]string{"", "", " ", "\n\t", "\r\n"}[r.IntN(5)]) }
	space()
	switch v := v.(type) {
	case map[string]any:
		b.WriteByte('{')
		names := slices.Sorted(maps.Keys(v))
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for i := 0; i < len(names); i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			space()
			r.writeString(b, names[i])
			space()
			b.WriteByte(':')
			r.write(b, v[names[i]], twice)
			if *twice--; *twice == 0 {
				names = slices.Insert(names, i, names[i])
			}
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			r.write(b, e, twice)
		}
		b.WriteByte(']')
	case string:
		r.writeString(b, v)
	default:
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // the trees hold nothing else
		}
		b.Write(text)
	}
	space()
}

func (r randomJSON) writeString(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, c := range s {
		if c < ' ' || c == '"' || c == '\\' || c < 0x10000 && r.IntN(4) == 0 {
			fmt.Fprintf(b, `\u%04x`, c)
		} else {
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
}

func (r randomJSON) value(object map[string]any, twice int) []byte {
	var b strings.Builder
	r.write(&b, object, &twice)
	return []byte(b.String())
}

func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, member := range v {
			out[name] = clone(member)
		}
		return out
	case []any:
		out := []any{}
		for _, e := range v {
			out = append(out, clone(e))
		}
		return out
	}
	return v
}

func members(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			n += 1 + members(member)
		}
	case []any:
		for _, e := range v {
			n += members(e)
		}
	}
	return n
}

func TestCompareRandomJSON(t *testing.T) {
	for seed := range uint64(200) {
		r := randomJSON{rand.New(rand.NewPCG(seed, 1))}
		object := r.object()
		edited := func(edits ...func(object, meta map[string]any)) []byte {
			o := clone(object).(map[string]any)
			for _, edit := range edits {
				edit(o, o["metadata"].(map[string]any))
			}
			return r.value(o, 0)
		}
		status := func(o, _ map[string]any) {
			if r.IntN(5) == 0 {
				delete(o, "status")
			} else {
				o["status"] = r.edit(o["status"])
			}
		}
		bookkeeping := func(_, meta map[string]any) {
			if r.IntN(2) == 0 {
				meta["managedFields"] = r.edit(meta["managedFields"])
			} else {
				delete(meta, "managedFields")
			}
			meta["resourceVersion"] = r.edit(meta["resourceVersion"])
		}
		spec := func(o, _ map[string]any) { o["spec"] = r.edit(o["spec"]) }
		meta := func(_, meta map[string]any) { meta["name"] = r.edit(meta["name"]) }
		other := func(o, _ map[string]any) { o["data"] = r.tree(2) }
		base := r.value(object, 0)
		for _, c := range []struct {
			name  string
			value []byte
			want  objectDifference
		}{
			{"written in another way", edited(), differsManagedFields},
			{"bookkeeping", edited(bookkeeping), differsManagedFields},
			{"status", edited(status), differsStatus},
			{"status and bookkeeping", edited(status, bookkeeping), differsStatus},
			{"spec", edited(spec), differsUnknown},
			{"metadata", edited(meta), differsUnknown},
			{"another member", edited(other), differsUnknown},
			{"all", edited(status, bookkeeping, spec, meta), differsUnknown},
			{"a member twice", r.value(object, 1+r.IntN(members(object))), differsUnknown},
		} {
			name := fmt.Sprintf("seed %d: %s", seed, c.name)
			wantClass(t, name, base, c.value, c.want)
			if t.Failed() {
				t.Fatalf("%s:\n%s\n%s", name, base, c.value)
			}
		}
	}
}
