package etcdcluster

import (
	"fmt"
	"strconv"
	"strings"
)

// Environment files as systemd.exec(5) describes them for EnvironmentFile=: lines KEY=value, the last of several counts; values may be quoted, also over lines,
// and a backslash at a line's end joins the next one; lines that begin with '#' or ';' are comments.

// assignment is one KEY=value, from the beginning of its line to the beginning of the next.
type assignment struct {
	start, end int
	key, value string
	// unclear is set after a comment that ends in a backslash: systemd reads the line after it as part of the comment before version 254 and as an assignment since.
	unclear bool
}

const (
	newlines = "\n\r"
	blanks   = " \t" + newlines
)

// parseEnv finds the assignments of a file.
func parseEnv(text string) (all []assignment, err error) {
	unclear := false
	for at := 0; at < len(text); {
		begin := at + len(text[at:]) - len(strings.TrimLeft(text[at:], blanks))
		if begin == len(text) {
			break
		}
		// The line's own beginning: blank lines before it are not part of it.
		start := at + strings.LastIndexAny(text[at:begin], newlines) + 1
		line, rest, _ := cutLine(text[begin:])
		if text[begin] == '#' || text[begin] == ';' {
			unclear = strings.HasSuffix(line, `\`)
			at = len(text) - len(rest)
			continue
		}
		key, _, ok := strings.Cut(line, "=")
		if !ok {
			at = len(text) - len(rest)
			unclear = false
			continue
		}
		value, end, ok := envValue(text, begin+len(key)+1)
		if !ok {
			return nil, fmt.Errorf("line %d has a quote that does not end", 1+strings.Count(text[:start], "\n"))
		}
		all = append(all, assignment{start: start, end: end, key: strings.TrimRight(key, blanks), value: value, unclear: unclear})
		at, unclear = end, false
	}
	return all, nil
}

func cutLine(text string) (line, rest string, found bool) {
	i := strings.IndexAny(text, newlines)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}

// envValue reads the value that begins at a place, and tells where the next line begins. It is not ok if a quote has no end.
func envValue(text string, at int) (value string, end int, ok bool) {
	var b strings.Builder
	keep := 0 // what must not be trimmed
	quoted := true
	for ; at < len(text); at++ {
		c := text[at]
		switch {
		case strings.IndexByte(newlines, c) >= 0:
			return trimTail(b.String(), keep), at + 1, true
		case quoted && c == '\'':
			n := strings.IndexByte(text[at+1:], '\'')
			if n < 0 {
				return "", 0, false
			}
			b.WriteString(text[at+1 : at+1+n])
			keep, at = b.Len(), at+1+n
		case quoted && c == '"':
			n := doubleQuoted(&b, text[at+1:])
			if n < 0 {
				return "", 0, false
			}
			keep, at = b.Len(), at+n
		case quoted && (c == ' ' || c == '\t'): // before the value, and between quoted parts
		case c == '\\':
			quoted = false
			if at++; at < len(text) && strings.IndexByte(newlines, text[at]) < 0 {
				b.WriteByte(text[at])
				keep = b.Len()
			}
		default: // within an unquoted value quotes are characters like others
			quoted = false
			b.WriteByte(c)
		}
	}
	return trimTail(b.String(), keep), len(text), true
}

func trimTail(value string, keep int) string {
	return value[:keep] + strings.TrimRight(value[keep:], blanks)
}

// doubleQuoted reads up to the closing quote and returns how long that was, with the quote; -1 if there is none.
func doubleQuoted(b *strings.Builder, text string) int {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return i + 1
		case c == '\\' && i+1 < len(text):
			i++
			switch c := text[i]; {
			case strings.IndexByte("\"\\$`", c) >= 0:
				b.WriteByte(c)
			case c != '\n':
				b.WriteByte('\\')
				b.WriteByte(c)
			}
		default:
			b.WriteByte(c)
		}
	}
	return -1
}

// envKey is the variable of a setting.
func envKey(s Setting) string {
	return "ETCD_" + strings.ToUpper(strings.ReplaceAll(string(s), "-", "_"))
}

// envSettings reads the settings of a file.
func envSettings(text string) (s Settings, err error) {
	all, err := parseEnv(text)
	if err != nil {
		return s, err
	}
	values := map[string]string{}
	for _, a := range all {
		if err := a.readable(); err != nil {
			return s, err
		}
		values[a.key] = a.value
	}
	return settingsFrom(func(s Setting) string { return values[envKey(s)] })
}

// settingsFrom reads the settings from their texts.
func settingsFrom(value func(Setting) string) (s Settings, err error) {
	s = Settings{Name: value(SettingName), InitialCluster: value(SettingInitialCluster), InitialClusterState: value(SettingInitialClusterState)}
	if force := value(SettingForceNewCluster); force != "" {
		if s.ForceNewCluster, err = strconv.ParseBool(force); err != nil {
			return s, fmt.Errorf("%s is neither true nor false", SettingForceNewCluster)
		}
	}
	return s, nil
}

// readable refuses an assignment of ours that not every reader takes for one.
func (a assignment) readable() error {
	for _, s := range allSettings {
		switch fields := strings.Fields(a.key); {
		case a.key == envKey(s) && a.unclear:
			return fmt.Errorf("%s follows a comment that ends in a backslash, which not every systemd reads alike: remove the backslash", a.key)
		case len(fields) == 2 && fields[0] == "export" && fields[1] == envKey(s):
			return fmt.Errorf("%s is set with \"export\", which systemd does not read: remove the word", fields[1])
		}
	}
	return nil
}

// editEnv returns the file with the settings, exactly these, and everything else as it is, byte for byte.
func editEnv(text string, s Settings) (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	now, err := envSettings(text)
	if err != nil {
		return "", err
	}
	edited := text
	for _, setting := range allSettings {
		if value := s.values()[setting]; value != now.values()[setting] || value == "" {
			if edited, err = setEnv(edited, envKey(setting), value); err != nil {
				return "", err
			}
		}
	}
	if after, err := envSettings(edited); err != nil || after != s {
		return "", fmt.Errorf("its syntax does not let settings be changed safely: change them by hand")
	}
	return edited, nil
}

// setEnv replaces the last assignment of a key, or appends one; "" removes all of them.
func setEnv(text, key, value string) (string, error) {
	all, err := parseEnv(text)
	if err != nil {
		return "", err
	}
	for i := len(all) - 1; i >= 0; i-- {
		a := all[i]
		if a.key != key {
			continue
		}
		if value != "" {
			old := text[a.start:a.end]
			return text[:a.start] + key + "=" + value + old[len(strings.TrimRight(old, newlines)):] + text[a.end:], nil
		}
		text = text[:a.start] + text[a.end:]
	}
	if value == "" {
		return text, nil
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + key + "=" + value + "\n", nil
}
