package keyfilter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/understudy-dr/understudy/internal/yamldoc"
)

// maxFileSize bounds what Load reads. A filter is a few kilobytes.
const maxFileSize = 1 << 20

// LoadFile is Load on the file at path.
func LoadFile(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("keyfilter: %w", err)
	}
	defer f.Close()
	cfg, err := Load(f)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// Load reads a Config from one YAML document, in the shape that the package documentation shows, and validates it as New
// does. It is strict: an empty file, a second document, an unknown or repeated field, a null, and a number where a text
// belongs are errors.
func Load(r io.Reader) (Config, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFileSize+1))
	if err != nil {
		return Config{}, fmt.Errorf("keyfilter: read: %w", err)
	}
	if err := checkText(text); err != nil {
		return Config{}, err
	}
	doc, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return Config{}, &ConfigError{Problem: "not valid YAML: " + strings.TrimPrefix(err.Error(), "yaml: "), Hint: "fix the syntax"}
	}
	var tree any
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return Config{}, &ConfigError{Problem: "not valid YAML: " + err.Error(), Hint: "fix the syntax"}
	}
	var cfg Config
	if errs := decode(tree, reflect.ValueOf(&cfg).Elem(), ""); len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	if _, err := New(cfg); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// YAML writes the Config in the shape that Load reads.
func (c Config) YAML() ([]byte, error) {
	text, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("keyfilter: %w", err)
	}
	return text, nil
}

// checkText refuses what a YAML parser would accept silently.
func checkText(text []byte) error {
	if len(text) > maxFileSize {
		return &ConfigError{Problem: fmt.Sprintf("the file is larger than %d bytes", maxFileSize), Hint: "use globs, or generate the Config in Go"}
	}
	if p := yamldoc.Check(text); p != nil {
		return &ConfigError{Line: p.Line, Problem: p.Detail, Hint: p.Hint}
	}
	return nil
}

// decode fills v from what YAML gave. encoding/json would match field names in any case and take null for nothing; here a
// field is spelt as documented or it is an error that carries its path.
func decode(from any, v reflect.Value, path string) []error {
	fail := func(problem, hint string) []error {
		return []error{&ConfigError{Field: path, Problem: problem, Hint: hint}}
	}
	if from == nil {
		if path == "" {
			return fail("the file is empty", "write {} for the defaults")
		}
		return fail("has no value", "give it one, or remove it")
	}
	switch v.Kind() {
	case reflect.String:
		s, ok := from.(string)
		if !ok {
			return fail(fmt.Sprintf("is %s where a text belongs", kindOf(from)), "put it into quotes")
		}
		v.SetString(s)
		return nil
	case reflect.Slice:
		list, ok := from.([]any)
		if !ok {
			return fail(fmt.Sprintf("is %s where a list belongs", kindOf(from)), "write it as a list, even of one")
		}
		v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
		var errs []error
		for i := range list {
			errs = append(errs, decode(list[i], v.Index(i), indexed(path, i))...)
		}
		return errs
	}
	fields, ok := from.(map[string]any)
	if !ok {
		return fail(fmt.Sprintf("is %s where fields belong", kindOf(from)), "see the documentation of the package for the shape")
	}
	known := map[string]reflect.Value{}
	for i := range v.NumField() {
		if tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); tag != "" {
			known[tag] = v.Field(i)
		}
	}
	var errs []error
	for _, name := range sortedKeys(fields) {
		sub := strings.TrimPrefix(path+"."+name, ".")
		if field, ok := known[name]; ok {
			errs = append(errs, decode(fields[name], field, sub)...)
		} else {
			errs = append(errs, &ConfigError{Field: sub, Problem: "is not a known field", Hint: "known are " + strings.Join(sortedKeys(known), ", ")})
		}
	}
	return errs
}

func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "a text"
	case bool:
		return "true or false"
	case json.Number:
		return "a number"
	case []any:
		return "a list"
	}
	return "a set of fields"
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
