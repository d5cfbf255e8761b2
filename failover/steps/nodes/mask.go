package nodes

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
)

// Masked is what stands where a secret was.
const Masked = "[masked]"

// Masker takes secrets out of what programs print. It masks too much rather than too little; what is short, in a place of its own, and was not given to it, it cannot know.
// A nil Masker masks what can be told by its form alone.
type Masker struct{ secrets []string }

// NewMasker returns one that masks the given secrets, in their base64 forms as well, and whatever looks like key material:
//
//   - PEM blocks, also such that were cut off
//   - the values of fields that are named like a secret, such as "secret:", "password=" or "client-key-data:", in YAML, JSON and on command lines
//   - base64 that holds at least 16 bytes, and shorter base64 with padding
func NewMasker(secrets ...string) *Masker {
	m := &Masker{}
	for _, s := range secrets {
		for _, form := range []string{s, strings.TrimSpace(s)} {
			raw := []byte(form)
			m.secrets = append(m.secrets, form, strings.TrimRight(base64.StdEncoding.EncodeToString(raw), "="), strings.TrimRight(base64.URLEncoding.EncodeToString(raw), "="))
		}
	}
	m.secrets = slices.DeleteFunc(m.secrets, func(s string) bool { return s == "" })
	slices.SortFunc(m.secrets, func(a, b string) int { return len(b) - len(a) }) // one may be a part of another
	m.secrets = slices.Compact(m.secrets)
	return m
}

const secretWords = `secret|password|passwd|passphrase|token|credentials?|private[-_]?key|client-key-data|key-data|api[-_]?key|access[-_]?key|tsig`

var (
	pemBlock = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*-----.*?(-----END [A-Z0-9 ]*-----|$)`)
	// field is a name like a secret's, a separator, and a value: quoted, or up to the next space.
	field = regexp.MustCompile(`(?i)([a-z0-9_.-]*(?:` + secretWords + `)(?:[-_.][a-z0-9_.-]*)?\\?["']?[ \t]*(?::[ \t]|[=:])[ \t]*)(\[masked\]|\\?"(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|(?:Bearer|Basic)[ \t]+\S+|[^\s,}\]]+)`)
	// flag is an option of a command line with its value behind a space.
	flagged = regexp.MustCompile(`(?i)(--?[a-z0-9-]*(?:` + secretWords + `)[ \t]+)([^\s-]\S*)`)
	bearer  = regexp.MustCompile(`(?i)\b(Bearer|Basic)[ \t]+[A-Za-z0-9._~+/=-]{6,}`)
	// opens is a field whose value follows on the next lines.
	opens   = regexp.MustCompile(`(?i)^([ \t-]*)["']?[a-z0-9_.-]*(?:` + secretWords + `)["']?[ \t]*:[ \t]*([|>][-+0-9]*)?[ \t]*(#.*)?$`)
	base64s = regexp.MustCompile(`[A-Za-z0-9+/_-]{22,}={0,2}|[A-Za-z0-9+/_-]{6,}={1,2}`)
)

// Mask returns the text without secrets.
func (m *Masker) Mask(text string) string {
	if m != nil {
		for _, s := range m.secrets {
			text = strings.ReplaceAll(text, s, Masked)
		}
	}
	text = pemBlock.ReplaceAllString(text, Masked)
	text = maskBlocks(text)
	text = field.ReplaceAllString(text, "${1}"+Masked)
	text = flagged.ReplaceAllString(text, "${1}"+Masked)
	text = bearer.ReplaceAllString(text, "${1} "+Masked)
	return maskBase64(text)
}

func maskBase64(text string) string {
	var b strings.Builder
	end := 0
	for _, at := range base64s.FindAllStringIndex(text, -1) {
		run := text[at[0]:at[1]]
		padded := strings.HasSuffix(run, "=") && len(run)%4 == 0
		// What goes on behind is the value of a setting, such as name=value.
		if padded && at[1] < len(text) && !strings.ContainsRune(" \t\r\n,;:.\"'`)]}>\\&|", rune(text[at[1]])) {
			padded = false
		}
		b.WriteString(text[end:at[0]])
		end = at[1]
		if long := len(strings.TrimRight(run, "=")) >= 22; padded || long && strings.ToLower(run) != run && strings.ToUpper(run) != run {
			run = Masked // and not a word, a path, or a hash in hexadecimal
		}
		b.WriteString(run)
	}
	return b.String() + text[end:]
}

// maskBlocks masks the lines that belong to a secret's field and stand below it, further in.
func maskBlocks(text string) string {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		m := opens.FindStringSubmatch(lines[i])
		if m == nil {
			continue
		}
		for i+1 < len(lines) {
			next := lines[i+1]
			if in := len(next) - len(strings.TrimLeft(next, " \t")); strings.TrimSpace(next) != "" && in <= len(m[1]) {
				break
			}
			i++
			if strings.TrimSpace(next) != "" {
				lines[i] = next[:len(next)-len(strings.TrimLeft(next, " \t"))] + Masked
			}
		}
	}
	return strings.Join(lines, "\n")
}
