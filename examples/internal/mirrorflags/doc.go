// Package mirrorflags defines the settings by which the example programs are told what is mirrored: which keys, from where, to where, under which name.
// Programs that look at the same mirror take the same settings, and may be given the same file.
package mirrorflags

// EnvPrefix begins the names of environment variables.
const EnvPrefix = "UNDERSTUDY"

// DefaultName is the name of a mirror that was given none.
const DefaultName = "default"

// SettingsHelp is what the help of every program says about where settings come from.
const SettingsHelp = `Each flag may also be an environment variable (UNDERSTUDY_SOURCE_ENDPOINTS for --source-endpoints) or a field of the
YAML file given by --config (source-endpoints). A flag wins over the environment, the environment over the file.
`
