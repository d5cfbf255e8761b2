package kubemeta_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// pieces are what JSON is put together of, and what it must not hold.
var pieces = []string{
	"{", "}", "[", "]", ",", ":", " ", "\t\r\n", "\v", `"a"`, `"b":`, `"`, `\`, `"\"\\\/\b\f\n\r\t"`, `"\u00eF"`, `"\u00e"`, `"\x"`, "\"\x1f\"", "\"\x7f\xff\"", "\"ü\"",
	"0", "-0", "01", "12", "-", "+1", "1.5", "1.", ".5", "1e5", "1E+05", "1e-", "1e", "1.2e3", "true", "false", "null", "True", "nul", "NaN", "//", "\x00",
}

// TestJSONAgreesWithEncodingJSON holds the walk over JSON against json.Valid: with each piece and pair of pieces in every place, with random texts, and at the greatest depth.
func TestJSONAgreesWithEncodingJSON(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	valid, total := 0, 0
	check := func(text string) {
		t.Helper()
		if text == "" || text[0] != '{' {
			return
		}
		total++
		want := json.Valid([]byte(text))
		if want {
			valid++
		}
		if got := kubemeta.CheckJSON([]byte(text)) != kubemeta.DamagedJSON; got != want {
			t.Errorf("%.200q: valid %v, encoding/json says %v", text, got, want)
		}
	}
	for _, a := range append(pieces, "") {
		check(a + "{}")
		for _, b := range append(pieces, "") {
			check(`{"x":` + a + b + `}`)
			check(`{"x":[` + a + b + `,1]}`)
			check(`{"x":1` + a + b + `}`)
			check(`{` + a + b + `:1}`)
			check(`{` + a + b + `}`)
			check(`{}` + a + b)
		}
	}
	for range 20000 {
		var b strings.Builder
		b.WriteString(`{"x":`)
		for range rng.IntN(6) {
			b.WriteString(pieces[rng.IntN(len(pieces))])
		}
		b.WriteString([]string{"}", "]}", "}}", ""}[rng.IntN(4)])
		check(b.String())
	}
	for _, depth := range []int{9998, 9999, 10000} { // below the outermost object
		check(`{"x":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`)
		check(strings.Repeat(`{"x":`, depth+1) + "1" + strings.Repeat("}", depth+1))
	}
	if valid < total/100 || valid > total/2 {
		t.Errorf("%d of %d texts are valid: the data does not exercise the walk", valid, total)
	}
}
