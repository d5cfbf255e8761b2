package network

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// token is a word of keepalived's configuration, with its place.
type token struct {
	text     string
	from, to int
	line     int
}

// tokens takes a configuration apart: words, and braces as words of their own. Comments begin with ! or #; words in quotes are one.
func tokens(conf []byte) (all []token, err error) {
	line := 1
	for i := 0; i < len(conf); {
		switch c := conf[i]; {
		case c == '\n':
			line++
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#' || c == '!':
			for i < len(conf) && conf[i] != '\n' {
				i++
			}
		case c == '{' || c == '}':
			all = append(all, token{string(c), i, i + 1, line})
			i++
		case c == '"' || c == '\'':
			end := bytes.IndexByte(conf[i+1:], c)
			if end < 0 || bytes.IndexByte(conf[i+1:i+1+end], '\n') >= 0 {
				return nil, fmt.Errorf("line %d: a quote is not closed", line)
			}
			all = append(all, token{string(conf[i+1 : i+1+end]), i, i + end + 2, line})
			i += end + 2
		default:
			from := i
			for i < len(conf) && !bytes.ContainsRune([]byte(" \t\r\n{}#!\"'"), rune(conf[i])) {
				i++
			}
			all = append(all, token{string(conf[from:i]), from, i, line})
		}
	}
	return all, nil
}

// findPriority finds the number after "priority" in the block of a VRRP instance, at its own level. It is an error if there is not exactly one: which of them counts would be a guess.
func findPriority(conf []byte, instance string) (number token, err error) {
	all, err := tokens(conf)
	if err != nil {
		return number, err
	}
	depth, inside, found := 0, -1, 0
	instances := 0
	for i, t := range all {
		first := i == 0 || all[i-1].line != t.line || all[i-1].text == "{" || all[i-1].text == "}"
		switch {
		case t.text == "{":
			depth++
		case t.text == "}":
			if depth--; depth < 0 {
				return number, fmt.Errorf("line %d: a brace closes nothing", t.line)
			}
			if depth == inside {
				inside = -1
			}
		case depth == 0 && first && t.text == "vrrp_instance" && i+1 < len(all) && all[i+1].text == instance:
			instances++
			inside = depth
		case inside >= 0 && first && t.text == "include":
			return number, fmt.Errorf("line %d: vrrp_instance %s includes files, and what they say of its priority is not looked at", t.line, instance)
		case inside >= 0 && depth == inside+1 && first && t.text == "priority":
			if i+1 >= len(all) || all[i+1].line != t.line {
				return number, fmt.Errorf("line %d: priority has no number", t.line)
			}
			number = all[i+1]
			found++
		case inside >= 0 && depth == inside+1 && t.text == "priority" && !first && all[i-1].text[0] == '@':
			return number, fmt.Errorf("line %d: the priority holds under the condition %s only: write it without", t.line, all[i-1].text)
		}
	}
	switch {
	case depth != 0:
		return number, errors.New("a brace is not closed")
	case instances == 0:
		return number, fmt.Errorf("there is no vrrp_instance %s: files that it includes are not looked at", instance)
	case instances > 1:
		return number, fmt.Errorf("there are %d of vrrp_instance %s", instances, instance)
	case found == 0:
		return number, fmt.Errorf("vrrp_instance %s has no line priority: write down the one it has without, 100", instance)
	case found > 1:
		return number, fmt.Errorf("vrrp_instance %s has %d lines priority", instance, found)
	}
	if n, err := strconv.Atoi(number.text); err != nil || n < 1 || n > 255 {
		return number, fmt.Errorf("line %d: the priority is no number from 1 to 255", number.line)
	}
	return number, nil
}

// readPriority returns the priority of an instance.
func readPriority(conf []byte, instance string) (int, error) {
	t, err := findPriority(conf, instance)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(t.text)
}

// writePriority returns the configuration with another priority, and every other byte as it was.
func writePriority(conf []byte, instance string, priority int) ([]byte, error) {
	t, err := findPriority(conf, instance)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{conf[:t.from], []byte(strconv.Itoa(priority)), conf[t.to:]}, nil), nil
}
