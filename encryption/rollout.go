package encryption

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Cluster is one of the two clusters of a roll-out.
type Cluster struct {
	// Config is what all its apiservers run with.
	Config *Configuration
	// Apiservers are all that use its etcd, at least one. Each is changed in turn.
	Apiservers []Apiserver
}

// Apiserver is one kube-apiserver.
type Apiserver struct {
	// Name identifies it among those of both clusters.
	Name string `json:"name"`
	// Path is its --encryption-provider-config, where its host has the file.
	Path string `json:"path,omitempty"`
}

// RolloutConfig says where two clusters are to be brought.
type RolloutConfig struct {
	Primary, Standby Cluster
	// Merge is how the configurations are merged.
	Merge MergeOptions
	// Drop removes the standby's own keys in the end, after all values that they have written are rewritten. Keep them as long as there are backups that need them.
	Drop bool
}

// PhaseKind is what is done in a phase.
type PhaseKind string

// The kinds of phases.
const (
	// PhaseStopMirror: the mirror between the clusters must not run until PhaseStartMirror.
	PhaseStopMirror PhaseKind = "stop-mirror"
	// PhaseInstall: each apiserver gets a file, one after the other, and is verified to run with it.
	PhaseInstall PhaseKind = "install"
	// PhaseRelabel: the cluster's values get other key names in place.
	PhaseRelabel PhaseKind = "relabel"
	// PhaseRewrite: the cluster's values are encrypted anew in place.
	PhaseRewrite PhaseKind = "rewrite"
	// PhaseAudit: no value of the cluster has the old labels.
	PhaseAudit PhaseKind = "audit"
	// PhaseCompaction: the cluster's etcd has forgotten the revisions in which values had the old labels.
	PhaseCompaction PhaseKind = "compaction"
	// PhaseStartMirror: the mirror may run.
	PhaseStartMirror PhaseKind = "start-mirror"
)

// Phase is one step of a roll-out. The next may begin only when what it says under Verify has been verified: an apiserver that is left behind loses values.
// Written as JSON, a phase holds no key material.
type Phase struct {
	// Name is unique in the plan and stays the same for the same input.
	Name string    `json:"name"`
	Kind PhaseKind `json:"kind"`
	// Title says what is done, Why says why it comes here.
	Title string `json:"title"`
	Why   string `json:"why"`
	// Cluster is the one whose values the phase is about; "" of the phases that are about both or none.
	Cluster Role `json:"cluster,omitempty"`
	// Files are what PhaseInstall installs, a file for each apiserver of a cluster, in order. Apiservers of a cluster may run with the old and the new file in any mixture meanwhile.
	Files []File `json:"files,omitempty"`
	// Relabels are the new names of PhaseRelabel.
	Relabels []Relabeling `json:"relabels,omitempty"`
	// Labels are what PhaseRelabel and PhaseRewrite replace, and what PhaseAudit and PhaseCompaction look for.
	Labels []Label `json:"labels,omitempty"`
	// Verify says what must be verified before the next phase.
	Verify []string `json:"verify"`

	// Loaded has what the apiservers of each cluster may run with during the phase: one configuration, or the old and the new of PhaseInstall.
	Loaded map[Role][]*Configuration `json:"-"`

	// old are the keys that Labels name: another secret may have the same label, for other resources.
	old list
}

// needs reports whether a value was written with one of the old keys. The Codec only tells about keys.
func (p *Phase) needs(ctx context.Context, codec *Codec, key string, value []byte) (bool, error) {
	for _, t := range codec.all {
		if !p.old.has(t.atom) || !bytes.HasPrefix(value, t.head) {
			continue
		}
		switch err := codec.opensWith(ctx, t, key, value); {
		case err == nil:
			return true, nil
		case !errors.Is(err, ErrUnreadable):
			return false, err
		}
	}
	return false, nil
}

// File is what one apiserver is to run with.
type File struct {
	Cluster   Role      `json:"cluster"`
	Apiserver Apiserver `json:"apiserver"`
	// Hash is what VerifyLoaded looks for.
	Hash string `json:"hash"`
	// Data is the file's content. It holds the secrets.
	Data []byte `json:"-"`
}

// Relabeling is a key's old and new name.
type Relabeling struct {
	From Label `json:"from"`
	To   Label `json:"to"`
}

// Rollout is the way of two clusters to one configuration.
type Rollout struct {
	Phases  []Phase  `json:"phases"`
	Renames []Rename `json:"renames,omitempty"`
	Notices []Notice `json:"notices,omitempty"`

	// Merged is what all apiservers run with in the end, unless the standby's keys are dropped.
	Merged *Configuration `json:"-"`
}

// Hash is how kube-apiserver names a file in its metrics: "sha256:" and the SHA-256 of its bytes in hexadecimal.
func Hash(file []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(file)) }

// PlanRollout orders what has to be done so that every apiserver of both clusters reads every value of its etcd at every moment, whatever the order within a phase:
// add the other cluster's keys everywhere, verify, then let them write. Where both have a key of one name with different secrets, and MergeOptions.Clash is
// ClashRenameStandby, the standby first gets its key under the new name (added, then written with), its values are relabelled, and only then does the other's key come.
//
// The plan is checked before it is returned. Errors are those of Merge, or match ErrPlan where there is no such way, or ErrConfig.
func PlanRollout(cfg RolloutConfig) (*Rollout, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	m, err := newMerger(cfg.Primary.Config, cfg.Standby.Config, cfg.Merge)
	if err != nil {
		return nil, err
	}
	final, err := m.merge()
	if err != nil {
		return nil, err
	}
	b := &planner{cfg: cfg, m: m, final: final, now: map[Role]*table{Primary: m.p, Standby: m.s0}}
	if err := b.plan(); err != nil {
		return nil, err
	}
	return &Rollout{Phases: b.phases, Renames: m.renames, Notices: m.notices, Merged: final.emit()}, nil
}

func (cfg *RolloutConfig) check() error {
	var errs []error
	seen := map[string]bool{}
	for _, c := range []struct {
		role    Role
		cluster Cluster
	}{{Primary, cfg.Primary}, {Standby, cfg.Standby}} {
		if len(c.cluster.Apiservers) == 0 {
			errs = append(errs, &Error{Kind: ErrConfig, Side: string(c.role), Detail: "Apiservers is empty", Hint: "name every apiserver that uses the etcd: one that is forgotten loses values"})
		}
		for _, s := range c.cluster.Apiservers {
			if s.Name == "" || seen[s.Name] {
				errs = append(errs, &Error{Kind: ErrConfig, Side: string(c.role), Detail: fmt.Sprintf("Apiservers: the name %q is empty or given twice", s.Name), Hint: "give each apiserver a name of its own"})
			}
			seen[s.Name] = true
		}
	}
	return errors.Join(errs...)
}

// planner makes a plan.
type planner struct {
	cfg   RolloutConfig
	m     *merger
	final *table
	now   map[Role]*table // what the apiservers run with
	// started: the mirror may write the primary's values to the standby.
	started bool
	phases  []Phase
}

func (b *planner) plan() error {
	b.add(Phase{Name: "stop-mirror", Kind: PhaseStopMirror, Title: "make sure that no mirror runs from the primary to the standby",
		Why: "the standby cannot read the primary's values yet", Verify: []string{"no mirror runs"}})
	if err := b.rename(); err != nil {
		return err
	}
	ways := map[Role][]*table{}
	for _, role := range []Role{Primary, Standby} {
		from := b.now[role]
		if role == Standby {
			from = b.m.s // without the old names
		}
		way, err := b.way(from, b.final)
		if err != nil {
			return onSide(string(role), err)
		}
		if role == Standby && len(b.m.renames) > 0 && len(way) == 0 {
			way = []*table{b.final}
		}
		ways[role] = way
	}
	// The mirror may start when the primary is where it is to be and the standby reads all that it may write.
	ready := slices.IndexFunc(ways[Standby], func(t *table) bool { return readsAll(t, b.final) }) + 1
	for i := range max(len(ways[Primary]), ready) {
		targets := map[Role]*table{}
		if i < len(ways[Primary]) {
			targets[Primary] = ways[Primary][i]
		}
		if i < ready {
			targets[Standby] = ways[Standby][i]
		}
		if err := b.install(b.stepName(targets), targets); err != nil {
			return err
		}
	}
	b.add(Phase{Name: "start-mirror", Kind: PhaseStartMirror, Title: "the mirror may be started",
		Why: "every apiserver of the standby reads what the primary writes", Verify: []string{"the mirror has finished its base copy"}})
	b.started = true
	for _, t := range ways[Standby][ready:] {
		if err := b.install("promote-standby", map[Role]*table{Standby: t}); err != nil {
			return err
		}
	}
	if b.cfg.Drop {
		return b.drop()
	}
	return nil
}

// stepName tells adding from promoting: the first leaves every writer as it is.
func (b *planner) stepName(targets map[Role]*table) string {
	for role, to := range targets {
		for _, s := range specsOf(b.now[role], to) {
			if !b.now[role].lookup(s)[0].same(to.lookup(s)[0]) {
				return "promote"
			}
		}
	}
	return "add"
}

// install adds a phase that brings clusters to tables, unless they are there.
func (b *planner) install(name string, targets map[Role]*table) error {
	p := Phase{Kind: PhaseInstall, Loaded: map[Role][]*Configuration{}}
	var roles []string
	for _, role := range []Role{Primary, Standby} {
		to := targets[role]
		if to == nil || sameTable(b.now[role], to) {
			continue
		}
		cfg := to.emit()
		if err := emitted(cfg); err != nil {
			return onSide(string(role), err)
		}
		data, err := Encode(cfg)
		if err != nil {
			return err
		}
		cluster := b.cfg.Primary
		if role == Standby {
			cluster = b.cfg.Standby
		}
		for _, s := range cluster.Apiservers {
			p.Files = append(p.Files, File{Cluster: role, Apiserver: s, Hash: Hash(data), Data: data})
		}
		p.Loaded[role] = []*Configuration{b.now[role].emit(), cfg}
		roles = append(roles, string(role))
		if err := b.safe(role, b.now[role], to); err != nil {
			return onSide(string(role), err)
		}
	}
	if len(roles) == 0 {
		return nil
	}
	p.Name = b.unique(name)
	both := strings.Join(roles, " and the ")
	p.Title = fmt.Sprintf("install the file at each apiserver of the %s, one after the other", both)
	p.Why = map[string]string{
		"add": "every apiserver must have a key before anyone writes with it", "promote": "now that every apiserver reads the key, it may write",
		"promote-standby": "now that every apiserver reads the primary's key, the standby writes with it", "alias-add": "every apiserver must know the new name before anyone writes it",
		"alias-promote": "now that every apiserver knows the new name, it may be written", "drop": "no value needs the key any more",
	}[name]
	p.Verify = []string{"every apiserver runs with the file, by its hash", "every apiserver is ready"}
	b.add(p)
	for role, to := range targets {
		b.now[role] = to
	}
	return nil
}

func (b *planner) unique(name string) string {
	taken := func(name string) bool {
		return slices.ContainsFunc(b.phases, func(p Phase) bool { return p.Name == name })
	}
	unique := name
	for n := 2; taken(unique); n++ {
		unique = fmt.Sprintf("%s-%d", name, n)
	}
	return unique
}

func (b *planner) add(p Phase) {
	if p.Loaded == nil {
		p.Loaded = map[Role][]*Configuration{}
	}
	for role, t := range b.now {
		if p.Loaded[role] == nil {
			p.Loaded[role] = []*Configuration{t.emit()}
		}
	}
	b.phases = append(b.phases, p)
}
