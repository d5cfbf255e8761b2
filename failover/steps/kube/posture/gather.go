package posture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// api asks one API server, with a deadline for each request.
type api struct {
	name   string
	client rest.Interface
	cfg    *Config
	scope  scope
	// dead is set once it could not be reached: then nothing more is asked.
	dead error
}

func newAPI(name string, rc *rest.Config, cfg *Config, s scope) (*api, error) {
	own := rest.CopyConfig(rc)
	own.QPS, own.Burst = 50, 100
	clients, err := kubernetes.NewForConfig(own)
	if err != nil {
		return nil, bad(fmt.Sprintf("%s: no client can be made of the rest.Config", name), "check its host and certificates")
	}
	return &api{name: name, client: clients.CoreV1().RESTClient(), cfg: cfg, scope: s}, nil
}

var errNotServed = errors.New("not served")

// get reads one document.
func (a *api) get(ctx context.Context, path string, query url.Values, accept string, into any) error {
	if a.dead != nil {
		return a.dead
	}
	callCtx, cancel := context.WithTimeout(ctx, a.cfg.RequestTimeout)
	defer cancel()
	req := a.client.Get().AbsPath(path).SetHeader("Accept", accept).MaxRetries(1)
	for key, values := range query {
		req = req.Param(key, values[0])
	}
	raw, err := req.DoRaw(callCtx)
	switch {
	case err == nil:
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s does not serve %s: %w", a.name, path, errNotServed)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s refuses %s: %s", a.name, path, apierrors.ReasonForError(err))
	case apierrors.ReasonForError(err) != "":
		return fmt.Errorf("%s answers %s with %s", a.name, path, apierrors.ReasonForError(err))
	default:
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.dead = fmt.Errorf("%s cannot be reached: %w", a.name, err)
		return a.dead
	}
	// What the answer holds must not come into an error.
	if json.Unmarshal(raw, into) != nil {
		return fmt.Errorf("%s answers %s with something else", a.name, path)
	}
	return nil
}

const asJSON = "application/json"

// list reads all pages of a list of one kind of item.
func list[T any](ctx context.Context, a *api, path string, query url.Values, accept string, each func(T)) error {
	q := url.Values{"limit": {"500"}}
	maps.Copy(q, query)
	for {
		var page struct {
			Metadata struct{ Continue string }
			Items    []T
		}
		if err := a.get(ctx, path, q, accept, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			each(item)
		}
		if page.Metadata.Continue == "" {
			return nil
		}
		q.Set("continue", page.Metadata.Continue)
	}
}

type named struct {
	Metadata struct{ Namespace, Name string }
}

func fingerprint(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// gather reads what evaluate needs. What fails is noted as missing; only the end of ctx is an error.
func gather(ctx context.Context, cfg *Config) (*facts, error) {
	f := &facts{missing: map[string]missing{}}
	what := scope{cfg.Prefix, cfg.Keep, cfg.ExcludedNamespaces}
	standby, err := newAPI("the standby", cfg.Standby, cfg, what)
	if err != nil {
		return nil, err
	}
	var primary *api
	if cfg.Primary != nil {
		if primary, err = newAPI("the primary", cfg.Primary, cfg, what); err != nil {
			return nil, err
		}
	}
	note := func(check string, err error) {
		if _, ok := f.missing[check]; err != nil && !ok {
			f.missing[check] = missing{why: err.Error(), failed: true}
		}
	}
	skip := func(check, why string) {
		if _, ok := f.missing[check]; !ok {
			f.missing[check] = missing{why: why}
		}
	}
	// alone asks the standby, both asks both.
	alone := func(check string, read func(ctx context.Context, a *api, s *side) error) {
		note(check, read(ctx, standby, &f.standby))
	}
	both := func(check string, read func(ctx context.Context, a *api, s *side) error) {
		if primary == nil {
			skip(check, "Config.Primary is nil")
			return
		}
		if err := read(ctx, primary, &f.primary); err != nil {
			note(check, err)
			return
		}
		alone(check, read)
	}
	fromPrimary := func(check string, read, other func(ctx context.Context, a *api, s *side) error) {
		if primary == nil {
			skip(check, "Config.Primary is nil")
			return
		}
		note(check, read(ctx, primary, &f.primary))
		if other != nil {
			alone(check, other)
		}
	}
	both(CheckVersion, readVersion)
	alone(CheckControllers, readLeases)
	both(CheckServiceCIDR, readServiceRange)
	both(CheckServiceAccounts, readIssuer)
	fromPrimary(CheckAPIServices, readAPIServices, readServices)
	fromPrimary(CheckWebhooks, readWebhooks, readServices)
	fromPrimary(CheckVolumes, readVolumes, nil)
	both(CheckDefinitions, readDefinitions)
	both(CheckRootCA, readRootCA)
	fromPrimary(CheckRootCA, readTokens, nil)
	f.away = standby.dead
	gatherEtcds(ctx, cfg, f, note, skip)
	if cfg.Unreadable == nil {
		skip(CheckEncryption, "Config.Unreadable is nil")
	} else if f.unreadable, f.unknown, err = cfg.Unreadable(ctx); err != nil {
		note(CheckEncryption, err)
	}
	return f, ctx.Err()
}

// gatherEtcds reads what only the etcds tell.
func gatherEtcds(ctx context.Context, cfg *Config, f *facts, note func(string, error), skip func(check, why string)) {
	for _, e := range []struct {
		name   string
		client *clientv3.Client
		side   *side
		ports  string
	}{{"PrimaryEtcd", cfg.PrimaryEtcd, &f.primary, cfg.PrimaryNodePorts}, {"StandbyEtcd", cfg.StandbyEtcd, &f.standby, cfg.StandbyNodePorts}} {
		if e.ports != "" {
			p, _ := parsePorts(e.ports) // checked by complete
			e.side.nodePorts = &p
		}
		if e.client == nil {
			skip(CheckRevision, "Config."+e.name+" is nil")
			if e.side.nodePorts == nil {
				skip(CheckNodePorts, fmt.Sprintf("neither Config.%s nor Config.%sNodePorts is set", e.name, strings.TrimSuffix(e.name, "Etcd")))
			}
			continue
		}
		resp, err := etcdrpc.Do(ctx, cfg.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return e.client.Get(ctx, cfg.Prefix+"/ranges/servicenodeports")
		})
		if err != nil {
			err = fmt.Errorf("%s does not answer: %w", e.name, err)
			note(CheckRevision, err)
			if e.side.nodePorts == nil {
				note(CheckNodePorts, err)
			}
			continue
		}
		e.side.revision = resp.Header.Revision
		if e.side.nodePorts != nil {
			continue
		}
		if len(resp.Kvs) == 0 {
			skip(CheckNodePorts, fmt.Sprintf("%s has no allocation of node ports below %s, which is written with the first one", e.name, cfg.Prefix))
			continue
		}
		var allocation corev1.RangeAllocation
		if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(resp.Kvs[0].Value, nil, &allocation); err != nil {
			note(CheckNodePorts, fmt.Errorf("%s holds an allocation of node ports that cannot be read", e.name))
			continue
		}
		p, err := parsePorts(allocation.Range)
		if err != nil {
			note(CheckNodePorts, fmt.Errorf("%s allocates node ports from %q: %w", e.name, allocation.Range, err))
			continue
		}
		e.side.nodePorts = &p
	}
}

func readVersion(ctx context.Context, a *api, s *side) error {
	var v struct{ Major, Minor, GitVersion string }
	if err := a.get(ctx, "/version", nil, asJSON, &v); err != nil {
		return err
	}
	// Some distributions write "28+".
	minor, err := strconv.Atoi(strings.TrimRight(v.Minor, "+"))
	if err != nil || v.Major != "1" {
		return fmt.Errorf("%s is of version %s.%s, which cannot be compared", a.name, v.Major, v.Minor)
	}
	s.minor, s.version = minor, v.GitVersion
	return nil
}

func readLeases(ctx context.Context, a *api, s *side) error {
	s.leases = map[string]lease{}
	type item struct {
		named
		Spec struct {
			HolderIdentity       string
			LeaseDurationSeconds int
			RenewTime            time.Time
		}
	}
	err := list(ctx, a, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", nil, asJSON, func(l item) {
		s.leases[l.Metadata.Name] = lease{l.Spec.HolderIdentity, l.Spec.RenewTime, time.Duration(l.Spec.LeaseDurationSeconds) * time.Second}
		// API servers renew their own leases every ten seconds, so the freshest tells the cluster's time to that, whatever the local clock says.
		if l.Spec.RenewTime.After(s.now) && strings.HasPrefix(l.Metadata.Name, "apiserver-") {
			s.now = l.Spec.RenewTime
		}
	})
	if s.now.IsZero() {
		s.now = time.Now()
	}
	return err
}

func readServiceRange(ctx context.Context, a *api, s *side) error {
	type item struct {
		named
		Spec struct{ CIDRs []string }
	}
	err := list(ctx, a, "/apis/networking.k8s.io/v1/servicecidrs", nil, asJSON, func(c item) {
		s.cidrs = append(s.cidrs, c.Spec.CIDRs...)
		// Each API server makes the one called kubernetes of its own flag.
		if name := c.Metadata.Name; name != "kubernetes" && a.scope.keeps("servicecidrs", name) {
			s.arriving = append(s.arriving, c.Spec.CIDRs...)
		}
	})
	if err != nil && !errors.Is(err, errNotServed) { // before 1.33
		return err
	}
	var service struct{ Spec struct{ ClusterIPs []string } }
	if err := a.get(ctx, "/api/v1/namespaces/default/services/kubernetes", nil, asJSON, &service); err != nil {
		return err
	}
	s.addresses = service.Spec.ClusterIPs
	return nil
}

func readIssuer(ctx context.Context, a *api, s *side) error {
	var discovery struct{ Issuer string }
	if err := a.get(ctx, "/.well-known/openid-configuration", nil, asJSON, &discovery); err != nil {
		return err
	}
	var set struct {
		Keys []struct{ Kty, N, E, Crv, X, Y string }
	}
	if err := a.get(ctx, "/openid/v1/jwks", nil, "application/jwk-set+json", &set); err != nil {
		return err
	}
	s.issuer, s.keys = discovery.Issuer, map[string]bool{}
	for _, k := range set.Keys {
		s.keys[fingerprint(k.Kty, k.N, k.E, k.Crv, k.X, k.Y)] = true
	}
	return nil
}

func readRootCA(ctx context.Context, a *api, s *side) error {
	var cm struct {
		Data map[string]string `json:"data"`
	}
	err := a.get(ctx, "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt", nil, asJSON, &cm)
	if errors.Is(err, errNotServed) {
		return fmt.Errorf("%s has no ConfigMap kube-root-ca.crt in kube-system: its controller-manager has never run", a.name)
	}
	s.rootCA = fingerprint(strings.TrimSpace(cm.Data["ca.crt"]))
	return err
}

func readTokens(ctx context.Context, a *api, s *side) error {
	query := url.Values{"fieldSelector": {"type=kubernetes.io/service-account-token"}}
	return list(ctx, a, "/api/v1/secrets", query, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", func(o named) {
		if m := o.Metadata; a.scope.namespaced(m.Namespace, "secrets", m.Namespace, m.Name) {
			s.tokens++
		}
	})
}
