package connect

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxFileBytes bounds the files that are read whole: settings, passwords, certificates.
const maxFileBytes = 1 << 20

// readFile reads a small file. Its error says what is wrong without package os's call names.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plain(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	switch {
	case err != nil:
		return nil, plain(path, err)
	case len(data) > maxFileBytes:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFileBytes)
	}
	return data, nil
}

func plain(path string, err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// readFields reads one YAML document of fields, strictly: a field given twice and a second document are errors.
func readFields(path string) (map[string]any, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	content := false
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimRight(line, "\r \t")
		switch {
		case content && (line == "---" || strings.HasPrefix(line, "--- ")):
			return nil, fmt.Errorf("%s: line %d: a second document starts", path, i+1)
		case line != "" && !strings.HasPrefix(strings.TrimLeft(line, " \t"), "#"):
			content = true
		}
	}
	var fields map[string]any
	if err := yaml.UnmarshalStrict(data, &fields); err != nil {
		return nil, fmt.Errorf("%s: %s", path, yamlProblem(err))
	}
	return fields, nil
}

var yamlLine = regexp.MustCompile(`line \d+`)

// yamlProblem is what the parser says, but for any text of the document, which may hold a password; names of repeated fields apart.
func yamlProblem(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if i := strings.Index(text, "line "); i >= 0 && strings.Contains(text, "already set in map") {
		return text[i:]
	}
	if line := yamlLine.FindString(text); line != "" {
		return "not valid YAML near " + line
	}
	return "it does not consist of fields, each a name, a colon and a value"
}
