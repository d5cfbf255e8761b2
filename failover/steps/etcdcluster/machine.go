package etcdcluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/understudy-dr/understudy/failover/steps/nodes"
)

// machine is what Systemd and StaticPod do with files. Programs' output may hold what the files hold: errors have its last line only where the program prints no content.
type machine struct {
	host    nodes.Host
	dataDir string
}

// run runs a program and wants the status 0.
func (m machine) run(ctx context.Context, stdin []byte, args ...string) (string, error) {
	res, err := m.host.Run(ctx, nodes.Command{Args: args, Stdin: stdin, Root: true})
	if err != nil {
		return "", fmt.Errorf("on %s: %s: %w", m.host.Name(), args[0], err)
	}
	if res.Exit != 0 {
		return "", &exitError{host: m.host.Name(), program: args[0], exit: res.Exit, said: lastLine(res.Stderr)}
	}
	if res.Truncated {
		return "", fmt.Errorf("on %s: %s printed more than %d bytes", m.host.Name(), args[0], nodes.MaxOutput)
	}
	return res.Stdout, nil
}

type exitError struct {
	host, program, said string
	exit                int
}

func (e *exitError) Error() string {
	text := fmt.Sprintf("on %s: %s ended with status %d", e.host, e.program, e.exit)
	if e.said != "" {
		text += ": " + e.said
	}
	return text
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	return last[:min(len(last), 200)]
}

func (m machine) readFile(ctx context.Context, file string) (string, error) {
	return m.run(ctx, nil, "cat", "--", file)
}

// replaceFile puts new content into a file in one step and keeps its owner and mode. A file that has changed since it was read is left alone.
const replaceFile = `set -eu
file=$1; old=$2; next=$file.understudy
cp -p -- "$file" "$next"
[ "$(sha256sum < "$next" | cut -d' ' -f1)" = "$old" ] || { rm -f -- "$next"; echo "the file was changed by somebody else meanwhile" >&2; exit 1; }
cat > "$next"
sync -- "$next" 2>/dev/null || sync
mv -f -- "$next" "$file"
sync -- "$(dirname -- "$file")" 2>/dev/null || sync`

// editFile changes a file's settings.
func (m machine) editFile(ctx context.Context, file string, s Settings, edit func(string, Settings) (string, error)) error {
	old, err := m.readFile(ctx, file)
	if err != nil {
		return err
	}
	edited, err := edit(old, s)
	if err != nil {
		return fmt.Errorf("%s on %s: %w", file, m.host.Name(), err)
	}
	if edited == old {
		return nil
	}
	sum := sha256.Sum256([]byte(old))
	_, err = m.run(ctx, []byte(edited), "sh", "-c", replaceFile, "sh", file, hex.EncodeToString(sum[:]))
	return err
}

func (m machine) settings(ctx context.Context, file string, parse func(string) (Settings, error)) (Settings, error) {
	text, err := m.readFile(ctx, file)
	if err != nil {
		return Settings{}, err
	}
	s, err := parse(text)
	if err != nil {
		return s, fmt.Errorf("%s on %s: %w", file, m.host.Name(), err)
	}
	return s, nil
}

// moveFolder renames a folder within its parent, which keeps owner, mode and label, and may be a mount point. It does nothing if that has happened, or there is nothing.
const moveFolder = `set -eu
from=$1; to=$2
if [ ! -e "$from" ]; then exit 0; fi
if [ -e "$to" ]; then echo "$from and $to are both there" >&2; exit 1; fi
mv -T -- "$from" "$to"
sync -- "$(dirname -- "$to")" 2>/dev/null || sync`

// etcd keeps all of its data below this folder of its data directory.
func (m machine) data() string              { return path.Join(m.dataDir, "member") }
func (m machine) aside(label string) string { return path.Join(m.dataDir, "member-"+label) }
func (m machine) moved(label string) []string {
	return []string{fmt.Sprintf("mv %s %s", m.data(), m.aside(label))}
}

var labelSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)

func (m machine) move(ctx context.Context, label string, back bool) error {
	if !labelSyntax.MatchString(label) {
		return fmt.Errorf("label %q is not made of letters, digits and '-'", label)
	}
	from, to := m.data(), m.aside(label)
	if back {
		from, to = to, from
	}
	_, err := m.run(ctx, nil, "sh", "-c", moveFolder, "sh", from, to)
	return err
}

// checkPath validates a path on a machine.
func checkPath(field, p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, "\n\r\x00'\"\\ $`") {
		return bad(fmt.Sprintf("%s is %q", field, p), "give a clean absolute path without blanks and quotes, not the root")
	}
	return nil
}
