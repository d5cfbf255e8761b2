package keyfilter

import (
	"math/rand/v2"
	"testing"
	"unicode/utf8"
)

// checkGlob compares one match with the regular expression that says the same, and what pattern.covers claims with that.
func checkGlob(t testing.TB, glob, s string) {
	t.Helper()
	p, problem := parsePattern(glob)
	if problem != "" || !utf8.ValidString(glob) || !utf8.ValidString(s) {
		return
	}
	want := globExpression(glob).MatchString(s)
	if got := p.match([]byte(s)); got != want {
		t.Fatalf("glob %q on %q: %v, want %v", glob, s, got, want)
	}
	again, problem := parsePattern(p.source)
	if problem != "" || again.source != p.source || again.match([]byte(s)) != want {
		t.Fatalf("glob %q is normalised to %q, which is another one", glob, p.source)
	}
	if q, problem := parsePattern(s); problem == "" && p.covers(&q) && q.exact && !p.match([]byte(q.text)) {
		t.Fatalf("glob %q covers %q but does not match it", glob, s)
	}
}

// TestGlob searches short texts over a small alphabet, where backtracking has to be right.
func TestGlob(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	word := func(letters []rune, n int) string {
		out := make([]rune, rnd.IntN(n))
		for i := range out {
			out[i] = letters[rnd.IntN(len(letters))]
		}
		return string(out)
	}
	matched := 0
	for range 200_000 {
		glob, s := word([]rune(`ab€**??\`), 8), word([]rune(`ab€*\`), 8)
		checkGlob(t, glob, s)
		if p, problem := parsePattern(glob); problem == "" && p.match([]byte(s)) {
			matched++
		}
	}
	if matched < 1000 {
		t.Fatalf("only %d of the pairs matched: the generator proves little", matched)
	}
}

// TestCoversIsSound: if one glob is said to cover another, it matches all that the other one matches.
func TestCoversIsSound(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	word := func(letters string, n int) string {
		out := make([]byte, 1+rnd.IntN(n))
		for i := range out {
			out[i] = letters[rnd.IntN(len(letters))]
		}
		return string(out)
	}
	covered := 0
	for range 50_000 {
		p, bad1 := parsePattern(word(`ab*?`, 4))
		q, bad2 := parsePattern(word(`ab*?`, 4))
		if bad1 != "" || bad2 != "" || !p.covers(&q) {
			continue
		}
		covered++
		for range 20 {
			if s := []byte(word("ab", 5)); q.match(s) && !p.match(s) {
				t.Fatalf("%q is said to cover %q, but %q matches the second only", p.source, q.source, s)
			}
		}
	}
	if covered < 1000 {
		t.Fatalf("only %d pairs covered one another", covered)
	}
}
