package inventory

import _ "embed"

// Example is an inventory with comments, from which to begin.
//
//go:embed example.yaml
var Example string
