package keyfilter

import "testing"

// BenchmarkParse takes apart the keys of a whole cluster; one operation is one key.
func BenchmarkParse(b *testing.B) {
	keys := clusterKeys(b)
	raw := make([][]byte, len(keys))
	for i := range keys {
		raw[i] = []byte(keys[i])
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("/registry", raw[i%len(raw)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
