package yamldoc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Unmarshal fills a struct from a text with one document; Check is part of it. encoding/json would match names of fields in any case and take null for nothing;
// here a field is spelt as its json tag says, or it is a problem with its path. Known are texts, truth values, whole numbers, durations (as texts such as 30s),
// lists, structs, pointers to them, and maps with texts for keys. It returns all that is wrong.
func Unmarshal(text []byte, into any) []Problem {
	if p := Check(text); p != nil {
		return []Problem{*p}
	}
	doc, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return []Problem{{Detail: "not valid YAML: " + strings.TrimPrefix(err.Error(), "yaml: "), Hint: "fix the syntax"}}
	}
	var tree any
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return []Problem{{Detail: "not valid YAML: " + err.Error(), Hint: "fix the syntax"}}
	}
	return decode(tree, reflect.ValueOf(into).Elem(), "")
}

var durationType = reflect.TypeFor[time.Duration]()

func decode(from any, v reflect.Value, path string) []Problem {
	fail := func(detail, hint string) []Problem { return []Problem{{Field: path, Detail: detail, Hint: hint}} }
	if from == nil {
		if path == "" {
			return fail("the file is empty", "write {} for the defaults")
		}
		return fail("has no value", "give it one, or remove it")
	}
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return decode(from, v.Elem(), path)
	case v.Type() == durationType:
		s, _ := from.(string)
		d, err := time.ParseDuration(s)
		if err != nil {
			return fail("is no duration", "write it as a text such as 30s, 5m or 1h30m")
		}
		v.SetInt(int64(d))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		s, ok := from.(string)
		if !ok {
			return fail(fmt.Sprintf("is %s where a text belongs", kindOf(from)), "put it into quotes")
		}
		v.SetString(s)
		return nil
	case reflect.Bool:
		b, ok := from.(bool)
		if !ok {
			return fail(fmt.Sprintf("is %s where true or false belongs", kindOf(from)), "write true or false, without quotes")
		}
		v.SetBool(b)
		return nil
	case reflect.Int, reflect.Int64:
		number, _ := from.(json.Number)
		n, err := number.Int64()
		if err != nil || v.OverflowInt(n) {
			return fail(fmt.Sprintf("is %s where a whole number belongs", kindOf(from)), "write a number, without quotes")
		}
		v.SetInt(n)
		return nil
	case reflect.Slice:
		list, ok := from.([]any)
		if !ok {
			return fail(fmt.Sprintf("is %s where a list belongs", kindOf(from)), "write it as a list, even of one")
		}
		v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
		var problems []Problem
		for i := range list {
			problems = append(problems, decode(list[i], v.Index(i), fmt.Sprintf("%s[%d]", path, i))...)
		}
		return problems
	}
	fields, ok := from.(map[string]any)
	if !ok {
		return fail(fmt.Sprintf("is %s where fields belong", kindOf(from)), "see the documentation for the shape")
	}
	if v.Kind() == reflect.Map {
		return decodeMap(fields, v, path)
	}
	return decodeStruct(fields, v, path)
}

func decodeMap(fields map[string]any, v reflect.Value, path string) (problems []Problem) {
	v.Set(reflect.MakeMapWithSize(v.Type(), len(fields)))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		element := reflect.New(v.Type().Elem()).Elem()
		problems = append(problems, decode(fields[name], element, below(path, name))...)
		v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), element)
	}
	return problems
}

func decodeStruct(fields map[string]any, v reflect.Value, path string) (problems []Problem) {
	known := map[string]reflect.Value{}
	for i := range v.NumField() {
		if tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); tag != "" && tag != "-" {
			known[tag] = v.Field(i)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if field, ok := known[name]; ok {
			problems = append(problems, decode(fields[name], field, below(path, name))...)
		} else {
			problems = append(problems, Problem{Field: below(path, name), Detail: "is not a known field", Hint: "known are " + strings.Join(slices.Sorted(maps.Keys(known)), ", ")})
		}
	}
	return problems
}

func below(path, name string) string { return strings.TrimPrefix(path+"."+name, ".") }

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
