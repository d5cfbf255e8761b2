package yamldoc

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	Name  string        `json:"name"`
	Wait  time.Duration `json:"wait"`
	Ports []int         `json:"ports"`
}

type outer struct {
	Open  bool             `json:"open"`
	Big   int64            `json:"big"`
	One   *inner           `json:"one"`
	Many  []inner          `json:"many"`
	Named map[string]inner `json:"named"`
	Plain string           `json:"-"`
}

func TestUnmarshal(t *testing.T) {
	var got outer
	problems := Unmarshal([]byte("open: true\nbig: 9007199254740993\none: {name: a, wait: 1h30m}\nmany:\n- ports: [1, 65535]\nnamed:\n  dc-1: {name: \"1\"}\n"), &got)
	want := outer{Open: true, Big: 9007199254740993, One: &inner{Name: "a", Wait: 90 * time.Minute}, Many: []inner{{Ports: []int{1, 65535}}}, Named: map[string]inner{"dc-1": {Name: "1"}}}
	if len(problems) > 0 || !cmp.Equal(got, want) {
		t.Errorf("%+v, %v", got, problems)
	}
}

// Each problem names its field, and none shows a value.
func TestUnmarshalProblems(t *testing.T) {
	for text, want := range map[string]string{
		"open: \"true\"":                "open: is a text where true or false belongs",
		"big: 1.5":                      "big: is a number where a whole number belongs",
		"big: 99999999999999999999":     "big: is a number where a whole number belongs",
		"one: {wait: 5}":                "one.wait: is no duration",
		"one: {wait: hunter2}":          "one.wait: is no duration",
		"one: [a]":                      "one: is a list where fields belong",
		"many: {name: a}":               "many: is a set of fields where a list belongs",
		"many: [{name: 7}]":             "many[0].name: is a number where a text belongs",
		"many: [{name: a}, {nmae: b}]":  "many[1].nmae: is not a known field",
		"named: {a: {ports: [x]}}":      "named.a.ports[0]: is a text where a whole number belongs",
		"named: {a: }":                  "named.a: has no value",
		"OPEN: true":                    "OPEN: is not a known field",
		"unseen: a":                     "unseen: is not a known field",
		"Plain: a":                      "Plain: is not a known field",
		"":                              ": the file is empty",
		"open: true\nopen: false":       "already set",
		"open: true\n---\nopen: true":   "a second YAML document",
		"one: {name: a, name: b}":       "already set",
		"named: {a: {x: 1}, b: {y: 2}}": "named.a.x: is not a known field",
		"- a":                           ": is a list where fields belong",
	} {
		var got outer
		problems := Unmarshal([]byte(text), &got)
		all := ""
		for _, p := range problems {
			all += fmt.Sprintf("%s: %s; %s\n", p.Field, p.Detail, p.Hint)
			if p.Hint == "" {
				t.Errorf("%q: no hint", text)
			}
		}
		if !strings.Contains(all, want) || strings.Contains(all, "hunter2") {
			t.Errorf("%q: %q, want %q", text, all, want)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte("one: {name: a, wait: 1s}\nmany: [{ports: [1]}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got outer
		for _, p := range Unmarshal(text, &got) {
			if p.Detail == "" || p.Hint == "" {
				t.Errorf("%q: %+v", text, p)
			}
		}
	})
}
