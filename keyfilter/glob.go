package keyfilter

import (
	"strings"
	"unicode/utf8"
)

// pattern is a selector: an exact text, or a glob in which '*' is any run of characters, '?' any one character, and '\'
// takes the next character as it is (RBAC names may contain all three).
type pattern struct {
	source string // as written, but normalised: needless escapes are gone
	text   string // the literal text if exact, else the literal text in front of the first wildcard
	tokens []token
	exact  bool
	tail   bool // the glob is text + "*", which needs no search
}

type token struct {
	kind tokenKind
	lit  string // of a literal token
}

type tokenKind uint8

const (
	tokenLiteral tokenKind = iota
	tokenOne               // '?'
	tokenAny               // '*'
)

// parsePattern compiles s. problem is empty if s is a pattern.
func parsePattern(s string) (p pattern, problem string) {
	if s == "" {
		return p, "is empty"
	}
	var lit, src strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			p.tokens = append(p.tokens, token{lit: lit.String()})
			lit.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '*':
			flush()
			if n := len(p.tokens); n == 0 || p.tokens[n-1].kind != tokenAny { // "**" is "*"
				p.tokens = append(p.tokens, token{kind: tokenAny})
				src.WriteByte(c)
			}
		case '?':
			flush()
			p.tokens = append(p.tokens, token{kind: tokenOne})
			src.WriteByte(c)
		case '\\':
			i++
			if i == len(s) {
				return p, "ends in a backslash"
			}
			c = s[i]
			if c == '*' || c == '?' || c == '\\' {
				src.WriteByte('\\')
			}
			src.WriteByte(c)
			lit.WriteByte(c)
		default:
			src.WriteByte(c)
			lit.WriteByte(c)
		}
	}
	flush()
	p.source = src.String()
	if p.tokens[0].kind == tokenLiteral {
		p.text = p.tokens[0].lit
	}
	p.exact = len(p.tokens) == 1 && p.text != ""
	p.tail = len(p.tokens) == 2 && p.text != "" && p.tokens[1].kind == tokenAny
	return p, ""
}

// everything reports whether p is the pattern "*".
func (p *pattern) everything() bool { return len(p.tokens) == 1 && p.tokens[0].kind == tokenAny }

// match is the usual search with one point to go back to, the last '*'. It allocates nothing.
func (p *pattern) match(s []byte) bool {
	if len(s) < len(p.text) || string(s[:len(p.text)]) != p.text {
		return false
	}
	switch {
	case p.exact:
		return len(s) == len(p.text)
	case p.tail, p.everything():
		return true
	}
	t, i := 0, 0          // next token, next byte
	backT, backI := -1, 0 // after the last '*', and where its run ends
	for t < len(p.tokens) || i < len(s) {
		if t < len(p.tokens) {
			switch tok := &p.tokens[t]; tok.kind {
			case tokenAny:
				t++
				backT, backI = t, i
				continue
			case tokenOne:
				if i < len(s) {
					_, w := utf8.DecodeRune(s[i:])
					t, i = t+1, i+w
					continue
				}
			case tokenLiteral:
				if len(s)-i >= len(tok.lit) && string(s[i:i+len(tok.lit)]) == tok.lit {
					t, i = t+1, i+len(tok.lit)
					continue
				}
			}
		}
		if backT < 0 || backI >= len(s) {
			return false
		}
		_, w := utf8.DecodeRune(s[backI:])
		backI += w
		t, i = backT, backI
	}
	return true
}

// covers reports whether p matches all that q matches. It may say no where the answer is yes (of two globs it
// understands equal ones and those of the form "text*"), never the other way round.
func (p *pattern) covers(q *pattern) bool {
	switch {
	case p.everything() || p.source == q.source:
		return true
	case q.exact:
		return p.match([]byte(q.text))
	case p.tail:
		return strings.HasPrefix(q.text, p.text)
	}
	return false
}

// matcher is one selector of a rule, compiled: any of its patterns.
type matcher struct {
	set     bool                // false: the rule does not select by this, everything passes
	all     bool                // one of the patterns is "*"
	lengths uint64              // bit i: an exact text has length i; bit 63: 63 or more. Most texts are told apart by it already
	few     []string            // the exact texts, if they are few
	exact   map[string]struct{} // the exact texts, if they are many
	globs   []pattern
}

// fewTexts is how many texts are compared one by one rather than hashed.
const fewTexts = 16

func lengthBit(n int) uint64 { return 1 << min(n, 63) }

func newMatcher(patterns []pattern) matcher {
	m := matcher{set: len(patterns) > 0}
	for _, p := range patterns {
		switch {
		case p.everything():
			m.all = true
		case p.exact:
			m.few = append(m.few, p.text)
			m.lengths |= lengthBit(len(p.text))
		default:
			m.globs = append(m.globs, p)
		}
	}
	if len(m.few) > fewTexts {
		m.exact = make(map[string]struct{}, len(m.few))
		for _, s := range m.few {
			m.exact[s] = struct{}{}
		}
		m.few = nil
	}
	return m
}

// free reports whether the matcher lets every non-empty text pass.
func (m *matcher) free() bool { return !m.set || m.all }

// match reports whether s passes; an empty s (no namespace, no known group) passes only where nothing is selected by it.
func (m *matcher) match(s []byte) bool { return !m.set || m.selects(s) } // short enough to be inlined

func (m *matcher) selects(s []byte) bool {
	if len(s) == 0 {
		return false
	}
	if m.all {
		return true
	}
	if m.lengths&lengthBit(len(s)) != 0 {
		for _, text := range m.few {
			if string(s) == text {
				return true
			}
		}
		if m.exact != nil {
			if _, ok := m.exact[string(s)]; ok {
				return true
			}
		}
	}
	for i := range m.globs {
		if m.globs[i].match(s) {
			return true
		}
	}
	return false
}
