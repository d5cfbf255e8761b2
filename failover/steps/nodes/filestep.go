package nodes

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/failover"
)

// present is what a host has at a path.
type present struct {
	Exists bool   `json:"exists"`
	Sum    string `json:"sha256,omitempty"`
	Mode   string `json:"mode,omitempty"`
	// Owner and Group are names, or numbers that have none; UID and GID the numbers.
	Owner string `json:"owner,omitempty"`
	Group string `json:"group,omitempty"`
	UID   string `json:"uid,omitempty"`
	GID   string `json:"gid,omitempty"`
}

func (p present) String() string {
	if !p.Exists {
		return "there is no file"
	}
	return fmt.Sprintf("SHA-256 %s, %s:%s, mode %s", p.Sum, p.Owner, p.Group, p.Mode)
}

// probe looks at a file.
type probe struct {
	place filePlace
	host  Host
}

// A file that changes between the two looks gives no answer.
const lookScript = `p=$1
if [ ! -e "$p" ] && [ ! -L "$p" ]; then
	[ -d "${p%/*}/" ] || { echo "no folder ${p%/*}" >&2; exit 3; }
	echo absent; exit 0
fi
[ -L "$p" ] && { echo "$p is a symbolic link" >&2; exit 3; }
[ -f "$p" ] || { echo "$p is no regular file" >&2; exit 3; }
s=$(sha256sum <"$p") && m=$(stat -c '%a %u %g %U %G' "$p") && echo "${s%% *} $m"`

func (p probe) look(ctx context.Context) (now present, err error) {
	res, err := p.host.Run(ctx, p.place.script(nil, lookScript, p.place.path))
	if err := ended(p.host, res, err, nil); err != nil {
		return now, fmt.Errorf("look at %s: %w", p.place.path, err)
	}
	out := strings.TrimSpace(res.Stdout)
	if out == "absent" {
		return now, nil
	}
	fields := strings.Fields(out)
	if len(fields) != 6 || len(fields[0]) != 64 {
		return now, fmt.Errorf("%s: sha256sum and stat say nothing that can be read about %s", p.host.Name(), p.place.path)
	}
	now = present{Exists: true, Sum: fields[0], Mode: fields[1], UID: fields[2], GID: fields[3], Owner: fields[4], Group: fields[5]}
	if now.Owner == "UNKNOWN" {
		now.Owner = now.UID
	}
	if now.Group == "UNKNOWN" {
		now.Group = now.GID
	}
	return now, nil
}

func (p probe) read(ctx context.Context) ([]byte, error) {
	res, err := p.host.Run(ctx, Command{Args: []string{"cat", "--", p.place.path}, Root: p.place.root})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", p.place.path, err)
	case res.Exit != 0: // what cat printed so far is content
		return nil, fmt.Errorf("%s: %s cannot be read: status %d", p.host.Name(), p.place.path, res.Exit)
	case res.Truncated:
		return nil, failover.Permanent(fmt.Errorf("%s: %s has more than %d bytes", p.host.Name(), p.place.path, MaxContent))
	}
	return []byte(res.Stdout), nil
}

func (p filePlace) script(stdin []byte, text string, args ...string) Command {
	return Command{Args: append([]string{"/bin/sh", "-c", text, "sh"}, args...), Stdin: stdin, Root: p.root}
}

// fileStep installs one file on one host.
type fileStep struct {
	place filePlace
	host  Host
	// hash is that of what is to be there, or says why it cannot be.
	hash func(ctx context.Context) (sum, blocked string, err error)
	// content is what is to be there.
	content func(ctx context.Context) ([]byte, error)
}

// The new file comes whole, by a rename, or not at all. What is there is kept by its own rename before; once the new file is in place it is kept no more, so that a second run does not
// take the new one for the old.
const installScript = `set -eu
p=$1 owner=$2 group=$3 mode=$4 want=$5 keep=$6
umask 077
t=$(mktemp "${p%/*}/.${p##*/}.XXXXXX")
k=
trap 'rm -f "$t" $k' EXIT
cat >"$t"
have=$(sha256sum <"$t")
[ "${have%% *}" = "$want" ] || { echo "the content did not arrive whole" >&2; exit 4; }
chown "$owner:$group" "$t"
chmod "$mode" "$t"
sync "$t"
if [ -e "$p" ]; then
	old=$(sha256sum <"$p")
	if [ "${old%% *}" != "$want" ]; then
		k=$(mktemp "${p%/*}/.${p##*/}.XXXXXX")
		cp -p "$p" "$k"
		sync "$k"
		mv -f "$k" "$keep"
		k=
	fi
fi
mv -f "$t" "$p"
sync "${p%/*}/"`

// The old file comes back from where it was kept, or, where only owner or mode were changed, from what is there.
const restoreScript = `set -eu
p=$1 owner=$2 group=$3 mode=$4 want=$5 keep=$6
umask 077
from=$keep
if [ "$(sha256sum <"$p")" = "$want  -" ]; then from=$p; fi
[ -f "$from" ] || { echo "the old file, $keep, is gone" >&2; exit 4; }
t=$(mktemp "${p%/*}/.${p##*/}.XXXXXX")
trap 'rm -f "$t"' EXIT
cat "$from" >"$t"
have=$(sha256sum <"$t")
[ "${have%% *}" = "$want" ] || { echo "$from is not the old file any more" >&2; exit 4; }
chown "$owner:$group" "$t"
chmod "$mode" "$t"
sync "$t"
mv -f "$t" "$p"
rm -f "$keep"
sync "${p%/*}/"`

const removeScript = `set -eu
rm -f "$1"
sync "${1%/*}/"`

// keep is where the old file is kept: hidden, so that a kubelet does not take it for a manifest, and named after the new one.
func (s fileStep) keep(sum string) string {
	dir, base := path.Split(s.place.path)
	return dir + "." + base + ".before-" + sum[:12]
}

const (
	savedBefore = "before"
	savedSum    = "sum"
)

func (s fileStep) probe() probe { return probe{s.place, s.host} }

func (s fileStep) isThere(now present, sum string) bool {
	owner := s.place.owner == now.Owner || s.place.owner == now.UID
	group := s.place.group == now.Group || s.place.group == now.GID
	want, _ := strconv.ParseUint(s.place.mode, 8, 32)
	have, err := strconv.ParseUint(now.Mode, 8, 32)
	return now.Exists && now.Sum == sum && owner && group && err == nil && have == want
}

func (s fileStep) observe(ctx context.Context) (failover.Observation, error) {
	sum, blocked, err := s.hash(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if blocked != "" {
		return failover.Observation{State: failover.Blocked, Detail: blocked}, nil
	}
	now, err := s.probe().look(ctx)
	if err != nil {
		return failover.Observation{}, err
	}
	if s.isThere(now, sum) {
		return failover.Observation{State: failover.Done, Detail: now.String()}, nil
	}
	var before present
	saved, err := failover.Load(ctx, savedBefore, &before)
	if err != nil {
		return failover.Observation{}, err
	}
	if saved && now != before {
		return failover.Observation{State: failover.Partial, Detail: "somebody has changed it: " + now.String()}, nil
	}
	return failover.Observation{State: failover.Pending, Detail: now.String()}, nil
}

func (s fileStep) do(ctx context.Context) error {
	data, err := s.content(ctx)
	if err != nil {
		return err
	}
	now, err := s.probe().look(ctx)
	if err != nil {
		return err
	}
	hash := sum(data)
	if s.isThere(now, hash) {
		return nil
	}
	// The file is replaced as a whole: as long as it is not there, what is there is what was before.
	if err := failover.Save(ctx, savedBefore, now); err != nil {
		return err
	}
	if err := failover.Save(ctx, savedSum, hash); err != nil {
		return err
	}
	return s.install(ctx, data, hash, now)
}

func (s fileStep) install(ctx context.Context, data []byte, hash string, now present) error {
	p := s.place
	res, err := s.host.Run(ctx, p.script(data, installScript, p.path, p.owner, p.group, p.mode, hash, s.keep(hash)))
	if err := ended(s.host, res, err, nil); err != nil {
		return fmt.Errorf("install %s: %w", p.path, err)
	}
	failover.Note(ctx, fmt.Sprintf("%s: %s is installed, SHA-256 %s; before: %s", s.host.Name(), p.path, hash, now))
	return nil
}

// Install installs a file on one host as the steps of File do, within a step of another kind; cfg.Hosts, Name and Reference are not used. If the file is there already it is left, and
// changed is false. Taking it back is up to the caller; the old file is kept beside it.
func Install(ctx context.Context, h Host, cfg FileConfig) (changed bool, err error) {
	cfg.Hosts = []Host{h}
	p, err := cfg.check()
	if err != nil {
		return false, err
	}
	s := fileStep{place: p, host: h}
	now, err := s.probe().look(ctx)
	if err != nil || s.isThere(now, sum(cfg.Content)) {
		return false, err
	}
	return true, s.install(ctx, cfg.Content, sum(cfg.Content), now)
}

func (s fileStep) undo(ctx context.Context) error {
	var before present
	var hash string
	saved, err := failover.Load(ctx, savedBefore, &before)
	if err != nil || !saved {
		return err // nothing was begun
	}
	if saved, err = failover.Load(ctx, savedSum, &hash); err != nil || !saved {
		return err
	}
	now, err := s.probe().look(ctx)
	if err != nil || now == before {
		return err
	}
	p := s.place
	if now.Sum != hash {
		return failover.Permanent(fmt.Errorf("%s: somebody has changed %s since it was installed (%s): put back what is to be there by hand; the old file is %s", s.host.Name(), p.path, now, s.keep(hash)))
	}
	cmd := p.script(nil, removeScript, p.path)
	if before.Exists {
		cmd = p.script(nil, restoreScript, p.path, before.UID, before.GID, before.Mode, before.Sum, s.keep(hash))
	}
	res, err := s.host.Run(ctx, cmd)
	if err := ended(s.host, res, err, nil); err != nil {
		return fmt.Errorf("put back %s: %w", p.path, err)
	}
	failover.Note(ctx, fmt.Sprintf("%s: %s is as before: %s", s.host.Name(), p.path, before))
	return nil
}

func (s fileStep) step(name string, d failover.Description) failover.Step {
	d.Undo = fmt.Sprintf("Put back what was at %s, with its owner and mode, or remove it if there was nothing", s.place.path)
	return failover.Funcs{Name: name, Description: d, Observe: s.observe, Do: s.do, Undo: s.undo}.Step()
}
