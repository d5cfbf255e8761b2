// Package yamldoc refuses what a YAML parser would accept silently: more than one document, of which it would read the first,
// and text that editors do not show. Unmarshal fills structs as strictly.
package yamldoc

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// Problem is what is wrong with a text, and what to do. It holds nothing of the text.
type Problem struct {
	Line         int    // from 1 on; 0 if it is not known, or about all of it
	Field        string // its path, such as "rules[2].name"; "" if it is about none
	Detail, Hint string
}

// Check looks at the text of a file that is to hold one document; nil means that it may. An empty text is for the caller to judge.
func Check(text []byte) *Problem {
	if !utf8.Valid(text) {
		return &Problem{Detail: "the file is not UTF-8", Hint: "save it as UTF-8"}
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	content, ended := false, false
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if j := strings.IndexAny(line, "\r\u0085\u2028\u2029"); j >= 0 {
			// YAML 1.1 takes these for line breaks, and editors do not show them.
			return &Problem{Line: i + 1, Detail: "a line break other than LF or CRLF", Hint: "replace it"}
		}
		rest, marker := "", false
		if len(line) >= 3 && (line[:3] == "---" || line[:3] == "...") && (len(line) == 3 || line[3] == ' ' || line[3] == '\t') {
			rest, marker = strings.TrimSpace(line[3:]), true
		}
		switch {
		case marker && line[0] == '-' && (content || ended):
			return &Problem{Line: i + 1, Detail: "a second YAML document starts", Hint: "put each document into a file of its own"}
		case marker && line[0] == '.':
			ended = true
		case marker:
			content = true // an empty document counts: a second one behind it is still a second one
		default:
			rest = strings.TrimSpace(line)
		}
		if rest != "" && rest[0] != '#' {
			if ended {
				return &Problem{Line: i + 1, Detail: "text behind the end of the YAML document", Hint: "remove it"}
			}
			if marker || line[0] != '%' { // a directive comes before the document
				content = true
			}
		}
	}
	return nil
}
