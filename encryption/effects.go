package encryption

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Effects are what the phases of a roll-out act through. A runner of plans gives its own; EtcdValues is one for Values.
type Effects struct {
	Files  Installer
	Loaded Verifier
	Values Values
	Mirror MirrorControl
}

// Installer puts files in place.
type Installer interface {
	// Install puts a file in place for an apiserver (see Install) and has it loaded: it restarts the apiserver and waits until it is ready, or waits for its reload.
	// It is called again after an interruption.
	Install(ctx context.Context, file File) error
}

// Verifier tells which file an apiserver runs with.
type Verifier interface {
	// Verify returns nil if the apiserver is ready and runs with the file, and an error that matches ErrNotLoaded if not (see VerifyLoaded). It only reads.
	Verify(ctx context.Context, file File) error
}

// Values looks at, and changes, the values of a cluster.
type Values interface {
	// Relabel gives values other labels (see Relabel), Rewrite encrypts values with some labels anew (see Rewrite). loaded is what the cluster's apiservers run with.
	Relabel(ctx context.Context, cluster Role, from, to Label, loaded *Configuration) error
	Rewrite(ctx context.Context, cluster Role, only []Label, loaded *Configuration) error
	// Find looks for a value for which match is true, among those stored now or, with history, in all revisions that the cluster's etcd still has and a watch may read.
	// It returns the key of one, "" if there is none, and stops early. It only reads.
	Find(ctx context.Context, cluster Role, history bool, loaded *Configuration, match func(ctx context.Context, codec *Codec, key string, value []byte) (bool, error)) (string, error)
}

// MirrorControl starts and stops the mirror between the clusters.
type MirrorControl interface {
	// Running reports whether a mirror runs, Copied whether it has finished its base copy. They only read.
	Running(ctx context.Context) (bool, error)
	Copied(ctx context.Context) (bool, error)
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
}

// compactionPause and copyPause are how often PhaseCompaction and PhaseStartMirror look again.
const (
	compactionPause = 10 * time.Second
	copyPause       = 500 * time.Millisecond
)

// Check tells, without changing anything, whether what the phase is to reach has been reached: nil if it has, an error that matches ErrNotReached or ErrNotLoaded and says what is missing
// if not. PhaseRelabel and PhaseRewrite look for a value that still needs an old key.
func (p *Phase) Check(ctx context.Context, e Effects) error {
	switch p.Kind {
	case PhaseStopMirror, PhaseStartMirror:
		if e.Mirror == nil {
			return p.missing("Mirror")
		}
		ask, want, detail := e.Mirror.Running, false, "a mirror runs"
		if p.Kind == PhaseStartMirror {
			ask, want, detail = e.Mirror.Copied, true, "the mirror has not finished its base copy"
		}
		is, err := ask(ctx)
		if err == nil && is != want {
			err = &Error{Kind: ErrNotReached, Detail: detail, Hint: p.Title}
		}
		return err
	case PhaseInstall:
		if e.Loaded == nil {
			return p.missing("Loaded")
		}
		var errs []error
		for _, f := range p.Files {
			if err := e.Loaded.Verify(ctx, f); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", f.Apiserver.Name, err))
			}
		}
		return errors.Join(errs...)
	}
	if e.Values == nil {
		return p.missing("Values")
	}
	key, err := e.Values.Find(ctx, p.Cluster, p.Kind == PhaseCompaction, p.Loaded[p.Cluster][0], p.needs)
	if err != nil {
		return err
	}
	if key == "" {
		return nil
	}
	if p.Kind == PhaseCompaction {
		return &Error{Kind: ErrNotReached, Side: string(p.Cluster), Detail: fmt.Sprintf("a revision that the etcd still has holds %q with an old key", key), Hint: "kube-apiserver lets it compact every 5 minutes; etcdctl compact does at once"}
	}
	return &Error{Kind: ErrNotReached, Side: string(p.Cluster), Detail: fmt.Sprintf("%q still needs an old key", key), Hint: p.Title}
}

// Do does the phase, and returns when Check would return nil, or with an error. It may be called again after an interruption at any instant. PhaseInstall changes one apiserver after the
// other, and goes on only when the one before runs with its file; PhaseAudit changes nothing; PhaseCompaction and PhaseStartMirror, for the base copy,
// wait until ctx ends.
func (p *Phase) Do(ctx context.Context, e Effects) error {
	loaded := p.Loaded[p.Cluster]
	switch p.Kind {
	case PhaseStopMirror, PhaseStartMirror:
		if e.Mirror == nil {
			return p.missing("Mirror")
		}
		act := e.Mirror.Stop
		if p.Kind == PhaseStartMirror {
			act = e.Mirror.Start
		}
		if err := act(ctx); err != nil {
			return err
		}
	case PhaseInstall:
		if e.Files == nil || e.Loaded == nil {
			return p.missing("Files or Loaded")
		}
		for _, f := range p.Files {
			if e.Loaded.Verify(ctx, f) == nil {
				continue
			}
			if err := e.Files.Install(ctx, f); err != nil {
				return fmt.Errorf("%s: %w", f.Apiserver.Name, err)
			}
			if err := e.Loaded.Verify(ctx, f); err != nil {
				return fmt.Errorf("%s: %w", f.Apiserver.Name, err)
			}
		}
	case PhaseRelabel, PhaseRewrite:
		if e.Values == nil {
			return p.missing("Values")
		}
		for _, r := range p.Relabels {
			if err := e.Values.Relabel(ctx, p.Cluster, r.From, r.To, loaded[0]); err != nil {
				return err
			}
		}
		if p.Kind == PhaseRewrite {
			if err := e.Values.Rewrite(ctx, p.Cluster, p.Labels, loaded[0]); err != nil {
				return err
			}
		}
	}
	switch p.Kind {
	case PhaseCompaction:
		return p.await(ctx, e, compactionPause)
	case PhaseStartMirror:
		return p.await(ctx, e, copyPause)
	}
	return p.Check(ctx, e)
}

// await looks until the phase is reached, or cannot be.
func (p *Phase) await(ctx context.Context, e Effects, pause time.Duration) error {
	for {
		err := p.Check(ctx, e)
		if !errors.Is(err, ErrNotReached) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

func (p *Phase) missing(field string) error {
	return &Error{Kind: ErrConfig, Detail: fmt.Sprintf("Effects.%s is missing, which phase %s acts through", field, p.Name), Hint: "give one"}
}

// EtcdValues are Values that act on the etcds themselves.
type EtcdValues struct {
	// Clients connect to the etcd of each cluster.
	Clients map[Role]*clientv3.Client
	// Resource is as for CodecConfig.
	Resource ResourceFunc
	// InPlace is how values are changed; Loaded is filled in.
	InPlace InPlaceConfig
}

var _ Values = (*EtcdValues)(nil)

func (v *EtcdValues) with(cluster Role, cfg *Configuration) (*clientv3.Client, *Codec, InPlaceConfig, error) {
	client := v.Clients[cluster]
	if client == nil {
		return nil, nil, InPlaceConfig{}, &Error{Kind: ErrConfig, Side: string(cluster), Detail: "EtcdValues.Clients has none for it", Hint: "connect to the etcd of each cluster"}
	}
	codec, err := NewCodec(cfg, CodecConfig{Resource: v.Resource, Logger: v.InPlace.Logger})
	if err != nil {
		return nil, nil, InPlaceConfig{}, err
	}
	in := v.InPlace
	in.Loaded = []*Configuration{cfg}
	return client, codec, in, nil
}

// Relabel implements Values.
func (v *EtcdValues) Relabel(ctx context.Context, cluster Role, from, to Label, loaded *Configuration) error {
	client, codec, in, err := v.with(cluster, loaded)
	if err != nil {
		return err
	}
	defer codec.Close()
	_, err = Relabel(ctx, client, codec, from, to, in)
	return err
}

// Rewrite implements Values.
func (v *EtcdValues) Rewrite(ctx context.Context, cluster Role, only []Label, loaded *Configuration) error {
	client, codec, in, err := v.with(cluster, loaded)
	if err != nil {
		return err
	}
	defer codec.Close()
	_, err = Rewrite(ctx, client, codec, only, in)
	return err
}

// errFound ends a scan.
var errFound = errors.New("found")

// Find implements Values.
func (v *EtcdValues) Find(ctx context.Context, cluster Role, history bool, loaded *Configuration, match func(ctx context.Context, codec *Codec, key string, value []byte) (bool, error)) (string, error) {
	client, codec, in, err := v.with(cluster, loaded)
	if err != nil {
		return "", err
	}
	defer codec.Close()
	s := newScanner(client, in.Prefix, in.AllKeys, in.RequestTimeout, inPlaceWindow)
	var key string
	use := func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			if kv == nil {
				continue
			}
			found, err := match(ctx, codec, string(kv.Key), kv.Value)
			if err != nil {
				return err
			}
			if found {
				key = string(kv.Key)
				return errFound
			}
		}
		return nil
	}
	if history {
		err = s.history(ctx, use)
	} else {
		_, _, err = s.scan(ctx, "", use)
	}
	if errors.Is(err, errFound) {
		return key, nil
	}
	return "", err
}
