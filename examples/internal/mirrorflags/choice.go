package mirrorflags

import (
	"errors"
	"strings"
)

// Choice is a flag that takes one of a few words; the first is the default.
type Choice struct {
	Words []string
	value string
}

// String is the word that was chosen. The zero value has none: package flag asks it for the default.
func (c *Choice) String() string {
	if c == nil || len(c.Words) == 0 {
		return ""
	}
	if c.value == "" {
		return c.Words[0]
	}
	return c.value
}

// Set chooses.
func (c *Choice) Set(value string) error {
	for _, word := range c.Words {
		if value == word {
			c.value = value
			return nil
		}
	}
	return errors.New("use " + strings.Join(c.Words, " or "))
}
