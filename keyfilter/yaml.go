package keyfilter

import (
	"errors"
	"fmt"
	"io"
	"os"

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
	if len(text) > maxFileSize {
		return Config{}, &ConfigError{Problem: fmt.Sprintf("the file is larger than %d bytes", maxFileSize), Hint: "use globs, or generate the Config in Go"}
	}
	var cfg Config
	var errs []error
	for _, p := range yamldoc.Unmarshal(text, &cfg) {
		errs = append(errs, &ConfigError{Line: p.Line, Field: p.Field, Problem: p.Detail, Hint: p.Hint})
	}
	if len(errs) > 0 {
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
