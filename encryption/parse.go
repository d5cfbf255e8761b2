package encryption

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"github.com/understudy-dr/understudy/internal/yamldoc"
)

// Configuration is the upstream type of an EncryptionConfiguration in version v1. Do not print one: its secrets are in it.
type Configuration = apiserverv1.EncryptionConfiguration

const (
	// maxFileSize bounds what is read as a configuration. A hundred keys are about 10 KiB.
	maxFileSize = 1 << 20

	apiVersion, kind             = "apiserver.config.k8s.io/v1", "EncryptionConfiguration"
	legacyAPIVersion, legacyKind = "v1", "EncryptionConfig"
)

// scheme and codecs are those of kube-apiserver for this file (server/options/encryptionconfig/config.go).
var (
	scheme = runtime.NewScheme()
	codecs serializer.CodecFactory
)

func init() {
	utilruntime.Must(apiserver.AddToScheme(scheme))
	utilruntime.Must(apiserverv1.AddToScheme(scheme))
	codecs = serializer.NewCodecFactory(scheme, serializer.EnableStrict)
}

// ParseFile is Parse on a file. Its errors begin with the path.
func ParseFile(path string) (*Configuration, error) {
	data, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	cfg, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// ReadFile reads the bytes of a configuration's file, to parse them or for Hash. Errors match ErrFile.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError("", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fileError("", path, err)
	}
	return data, nil
}

// fileError names the path in front of what the operating system said.
func fileError(doing, path string, err error) error {
	var pathError *fs.PathError
	var linkError *os.LinkError
	switch {
	case errors.As(err, &pathError):
		err = pathError.Err
	case errors.As(err, &linkError):
		err = linkError.Err
	}
	return &Error{Kind: ErrFile, Detail: strings.TrimSpace(doing + " " + path), Cause: err, Hint: "give a path that this process may use"}
}

// Parse reads one EncryptionConfiguration, as YAML or JSON, in apiserver.config.k8s.io/v1 or in the legacy form v1/EncryptionConfig, and fills in upstream's defaults.
// It is stricter than kube-apiserver, which ignores a second document: more than one document, text behind the document, an empty file, YAML whose last line
// does not end (so that a file that was cut off is noticed), unknown and repeated fields, and fields without a value are errors that match ErrParse.
// They name the field and hold nothing of the file. Whether the configuration makes sense is for Validate.
//
// YAML that was cut off between two lines may still be a whole document. JSON never is.
func Parse(data []byte) (*Configuration, error) {
	fail := func(detail, hint string) (*Configuration, error) {
		return nil, &Error{Kind: ErrParse, Detail: detail, Hint: hint}
	}
	if len(data) > maxFileSize {
		return fail(fmt.Sprintf("the file is larger than %d bytes", maxFileSize), "give the file of --encryption-provider-config")
	}
	if p := yamldoc.Check(data); p != nil {
		if p.Line > 0 {
			return fail(fmt.Sprintf("line %d: %s", p.Line, p.Detail), p.Hint)
		}
		return fail(p.Detail, p.Hint)
	}
	tree, err := decodeText(data)
	if err != nil {
		return nil, err
	}
	if tree == nil {
		return fail("the file is empty", "give the file of --encryption-provider-config")
	}
	fields, ok := tree.(map[string]any)
	if !ok {
		return fail("it does not consist of fields", "an EncryptionConfiguration begins with apiVersion, kind and resources")
	}
	if err := checkType(fields); err != nil {
		return nil, err
	}
	if errs := checkShape(tree, reflect.TypeFor[Configuration](), ""); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	// What is left is for kube-apiserver's own decoder. Its errors may quote the file.
	text, err := json.Marshal(tree)
	if err != nil {
		return fail("it cannot be written as JSON", "look for values that are no text, number or list")
	}
	object, _, err := codecs.UniversalDecoder(apiserverv1.SchemeGroupVersion).Decode(text, nil, nil)
	if err != nil {
		return fail("kube-apiserver's decoder refuses it", "compare it with the documentation of EncryptionConfiguration")
	}
	cfg, ok := object.(*Configuration)
	if !ok {
		return fail("it is another kind of object", "give the file of --encryption-provider-config")
	}
	return cfg, nil
}

// checkType refuses what kube-apiserver has no type for.
func checkType(fields map[string]any) error {
	version, _ := fields["apiVersion"].(string)
	name, _ := fields["kind"].(string)
	switch {
	case version == apiVersion && name == kind, version == legacyAPIVersion && name == legacyKind:
		return nil
	case name == kind && strings.HasPrefix(version, "apiserver.config.k8s.io/"):
		return &Error{Kind: ErrParse, Field: "apiVersion", Detail: "is another version", Hint: "write apiVersion: " + apiVersion}
	}
	return &Error{Kind: ErrParse, Field: "apiVersion, kind", Detail: "are not those of an EncryptionConfiguration", Hint: "write apiVersion: " + apiVersion + " and kind: " + kind}
}

var yamlLine = regexp.MustCompile(`line \d+`)

// decodeText makes maps and lists of YAML or JSON; nil of a file without content.
func decodeText(data []byte) (any, error) {
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	if len(text) > 0 && text[0] == '{' {
		return decodeJSON(text)
	}
	if n := len(data); n > 0 && data[n-1] != '\n' && len(text) > 0 {
		return nil, &Error{Kind: ErrParse, Detail: "the last line does not end, as in a file that was cut off", Hint: "if the file is whole, add a line break at its end"}
	}
	doc, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		where := ""
		if line := yamlLine.FindString(err.Error()); line != "" {
			where = " near " + line
		}
		if strings.Contains(err.Error(), "already set in map") {
			return nil, &Error{Kind: ErrParse, Detail: "a field is given twice" + where, Hint: "remove one of them"}
		}
		return nil, &Error{Kind: ErrParse, Detail: "not valid YAML" + where, Hint: "fix the syntax"}
	}
	return decodeJSON(doc)
}

// decodeJSON refuses repeated fields and what follows the document.
func decodeJSON(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, &Error{Kind: ErrParse, Detail: "text behind the end of the JSON document", Hint: "remove it"}
	}
	return v, nil
}

// maxDepth is more than the type has.
const maxDepth = 32

func decodeValue(dec *json.Decoder, depth int) (any, error) {
	bad := &Error{Kind: ErrParse, Detail: fmt.Sprintf("not valid JSON at byte %d", dec.InputOffset()), Hint: "fix the syntax, or copy the file again if it was cut off"}
	token, err := dec.Token()
	if err != nil || depth > maxDepth {
		return nil, bad
	}
	switch token {
	case json.Delim('{'):
		fields := map[string]any{}
		for dec.More() {
			name, err := dec.Token()
			key, ok := name.(string)
			if err != nil || !ok {
				return nil, bad
			}
			if _, twice := fields[key]; twice {
				return nil, &Error{Kind: ErrParse, Detail: fmt.Sprintf("a field is given twice before byte %d", dec.InputOffset()), Hint: "remove one of them"}
			}
			if fields[key], err = decodeValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		if _, err := dec.Token(); err != nil {
			return nil, bad
		}
		return fields, nil
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		if _, err := dec.Token(); err != nil {
			return nil, bad
		}
		return list, nil
	case json.Delim('}'), json.Delim(']'):
		return nil, bad
	}
	return token, nil
}

// checkShape compares what was read with the upstream type, so that an error can name the field without quoting the file.
func checkShape(from any, typ reflect.Type, path string) []error {
	fail := func(detail, hint string) []error {
		return []error{&Error{Kind: ErrParse, Field: path, Detail: detail, Hint: hint}}
	}
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if from == nil {
		if typ == reflect.TypeFor[apiserverv1.IdentityConfiguration]() {
			return fail("has no value, which kube-apiserver takes for no provider at all", "write identity: {}")
		}
		return fail("has no value", "give it one, or remove it")
	}
	switch {
	case typ == reflect.TypeFor[metav1.Duration]():
		text, ok := from.(string)
		if _, err := time.ParseDuration(text); !ok || err != nil {
			return fail("is no duration", "write one such as 3s")
		}
	case typ.Kind() == reflect.String:
		if _, ok := from.(string); !ok {
			return fail("is "+kindOf(from)+" where a text belongs", "put it into quotes")
		}
	case typ.Kind() == reflect.Int32:
		n, ok := from.(json.Number)
		if !ok {
			return fail("is "+kindOf(from)+" where a number belongs", "write a whole number")
		}
		if v, err := n.Int64(); err != nil || v != int64(int32(v)) {
			return fail("is no whole number of 32 bits", "write one such as 1000")
		}
	case typ.Kind() == reflect.Slice:
		list, ok := from.([]any)
		if !ok {
			return fail("is "+kindOf(from)+" where a list belongs", "write it as a list, even of one")
		}
		var errs []error
		for i := range list {
			errs = append(errs, checkShape(list[i], typ.Elem(), fmt.Sprintf("%s[%d]", path, i))...)
		}
		return errs
	case typ.Kind() == reflect.Struct:
		fields, ok := from.(map[string]any)
		if !ok {
			return fail("is "+kindOf(from)+" where fields belong", "see the documentation of EncryptionConfiguration")
		}
		return checkFields(fields, typ, path)
	}
	return nil
}

func checkFields(fields map[string]any, typ reflect.Type, path string) (errs []error) {
	known := jsonFields(typ)
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	given := make([]string, 0, len(fields))
	for name := range fields {
		given = append(given, name)
	}
	slices.Sort(given)
	for _, name := range given {
		field, ok := known[name]
		if ok {
			errs = append(errs, checkShape(fields[name], field, strings.TrimPrefix(path+"."+name, "."))...)
			continue
		}
		what := "an unknown field, not shown because it might be a secret"
		if isWord(name) {
			what = "unknown field " + name
		}
		hint := "known are " + strings.Join(names, ", ")
		if len(names) == 0 {
			hint = "it has no fields: write {}"
		}
		errs = append(errs, &Error{Kind: ErrParse, Field: path, Detail: what, Hint: hint})
	}
	return errs
}

// isWord reports whether a name is too short and too plain for any secret: no key of 16 bytes or more fits, encoded or not.
func isWord(name string) bool {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return false
		}
	}
	return name != "" && len(name) <= 12
}

// jsonFields are a struct's fields by their names in JSON, those of embedded structs among them.
func jsonFields(typ reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			for name, typ := range jsonFields(f.Type) {
				fields[name] = typ
			}
			continue
		}
		fields[name] = f.Type
	}
	return fields
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

// Encode writes a configuration as YAML, always the same for the same configuration, in apiserver.config.k8s.io/v1. The text holds the secrets.
func Encode(cfg *Configuration) ([]byte, error) {
	c := *cfg
	c.TypeMeta = metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}
	text, err := yaml.Marshal(&c)
	if err != nil {
		return nil, &Error{Kind: ErrConfig, Detail: "the configuration cannot be written as YAML", Hint: "make it with Parse or Merge"}
	}
	return text, nil
}
