package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/runbook"
	"github.com/understudy-dr/understudy/failover/steps/kube"
	"github.com/understudy-dr/understudy/failover/steps/mirror/engine"
	"github.com/understudy-dr/understudy/internal/testutil/daemon"
)

// ahead is by how much the primary's revision is above the standby's at least, before the roles change: an older cluster's is.
const ahead = 4000

// stage is a pair with what a switch of roles needs, and with users.
type stage struct {
	*pair
	t          *testing.T
	to, back   *engine.InProcess // the mirrors to the standby, and to the primary after the switch
	lb         map[*site]*balancer
	name       name
	followers  []*follower
	writer     *writer
	dependents map[string]types.UID

	mu          sync.Mutex
	controllers map[*site]bool
}

// newStage is a mirrored pair, whose standby has API servers alone, with informers and a writer at the primary.
func newStage(ctx context.Context, t *testing.T, o options) *stage {
	t.Helper()
	daemon.Need(t, "haproxy", "haproxy")
	s := &stage{pair: newPair(ctx, t, o), t: t, lb: map[*site]*balancer{}, controllers: map[*site]bool{}}
	var wg sync.WaitGroup
	for _, k := range []*site{s.primary, s.standby} {
		wg.Go(func() { k.furnish(ctx, t); k.settled(ctx, t) })
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	if err := s.standby.StopControllers(ctx); err != nil {
		t.Fatal(err)
	}
	s.controllers[s.primary] = true
	for _, k := range []*site{s.primary, s.standby} {
		s.lb[k] = startBalancer(ctx, t, k)
	}
	s.primary.raise(ctx, t, s.standby.revision(ctx, t)+ahead)
	s.primary.populate(ctx, t, 1)
	s.dependents = s.primary.makePairs(ctx, t, 0)
	s.to = startMirror(ctx, t, s.primary, s.standby, s.mirror)
	s.back = newMirror(t, s.standby, s.primary, s.mirror)
	follows(ctx, t, s.to)
	s.name.to.Store(s.lb[s.primary])
	s.followers = s.follow(ctx, &s.name, 2)
	s.writer = s.write(ctx, &s.name)
	until(ctx, t, "traffic", func() string {
		if n, _ := s.writer.progress(); n < 50 {
			return fmt.Sprint(n, " writes")
		}
		return ""
	})
	return s
}

// config is the pair as the runbooks know it.
func (s *stage) config() runbook.Config {
	cluster := func(k *site, m *engine.InProcess) runbook.Cluster {
		api, err := kube.NewCluster(kube.ClusterConfig{Name: k.name, REST: k.REST(), RequestTimeout: requestTimeout})
		if err != nil {
			s.t.Fatal(err)
		}
		c := runbook.Cluster{Name: k.name, VIPs: []string{s.lb[k].vip}, Ports: []int{6443, runbook.EtcdPort}, Etcd: k.etcd, Kube: api, Balancers: s.lb[k].runbook(), Mirror: m}
		for _, server := range k.Servers {
			c.APIServers = append(c.APIServers, kube.APIServer{Address: server.Addr, How: "kill the process and start it again", Restarter: kube.RestartFunc(server.Restart)})
		}
		return c
	}
	return runbook.Config{
		Primary: cluster(s.primary, s.back), Standby: cluster(s.standby, s.to), Domain: "platform.example.com", Mirror: s.mirror,
		RevisionMarginUngraceful: ahead, AfterPromotion: []failover.Step{s.controllersAre(s.standby, true)},
	}
}

// controllersAre is a step that starts or stops the controllers of a site.
func (s *stage) controllersAre(k *site, on bool) failover.Step {
	verb := map[bool]string{true: "start", false: "stop"}
	set := func(ctx context.Context, on bool) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.controllers[k] == on {
			return nil
		}
		s.controllers[k] = on
		if on {
			return k.StartControllers()
		}
		return k.StopControllers(ctx)
	}
	return failover.Funcs{
		Name: "controllers/" + k.name, Description: failover.Description{Action: verb[on] + " the controllers", Undo: verb[!on] + " the controllers"},
		Observe: func(context.Context) (failover.Observation, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.controllers[k] == on {
				return failover.Observation{State: failover.Done}, nil
			}
			return failover.Observation{State: failover.Pending}, nil
		},
		Do: func(ctx context.Context) error { return set(ctx, on) }, Undo: func(ctx context.Context) error { return set(ctx, !on) },
	}.Step()
}

// carryOut runs a plan to its end. What a person is asked for is done: the name is led to the standby when the plan asks for that.
func (s *stage) carryOut(ctx context.Context, cfg failover.PlanConfig, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	plan, err := failover.NewPlan(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	journal := filepath.Join(s.t.TempDir(), "journal")
	began := time.Now()
	for {
		r, err := failover.New(plan, failover.Config{Journal: journal, NoWait: true, BlockedWait: time.Minute, Poll: 100 * time.Millisecond, By: "test", Logger: logger()})
		if err != nil {
			s.t.Fatal(err)
		}
		err = r.Run(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, failover.ErrWaiting) {
			s.t.Fatalf("%s: %v", plan.Name(), err)
		}
		s.decide(journal)
	}
	s.t.Logf("%s: %d steps in %v", plan.Name(), len(plan.Document().Steps), time.Since(began).Round(time.Millisecond))
}

func (s *stage) decide(journal string) {
	s.t.Helper()
	log, err := failover.ReadJournal(journal)
	if err != nil {
		s.t.Fatal(err)
	}
	st := log.Status()
	d := failover.Decision{PlanHash: st.Hash, Step: st.Waiting.Step, By: "test", Role: st.Waiting.Role}
	switch st.Waiting.For {
	case failover.NeedConfirmation:
		d.Kind = failover.DecisionConfirm
		if d.Step == "dns" {
			s.name.to.Store(s.lb[s.standby])
		}
	case failover.NeedAcceptance:
		d.Kind, d.Loss = failover.DecisionAccept, st.Waiting.Loss
		s.t.Logf("accepted: %s", d.Loss)
	default:
		s.t.Fatalf("the run waits for %+v", *st.Waiting)
	}
	if _, err := failover.Decide(journal, d); err != nil {
		s.t.Fatal(err)
	}
}

// mark makes an object of each followed resource at a site, past the balancer.
func (s *stage) mark(ctx context.Context, k *site, object string) {
	s.t.Helper()
	for _, gvr := range followed {
		kind := map[string]string{"configmaps": "ConfigMap", "secrets": "Secret", "gadgets": "Gadget", "widgets": "Widget"}[gvr.Resource]
		u := customResource(gvr, kind, "", object, "marker")
		if gvr.Group == "" {
			delete(u.Object, "spec")
		}
		var err error
		if gvr == widgets {
			_, err = k.dynamic.Resource(gvr).Create(ctx, u, metav1.CreateOptions{})
		} else {
			_, err = k.dynamic.Resource(gvr).Namespace(tenant(1)).Create(ctx, u, metav1.CreateOptions{})
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// usersMoved waits until the writer's writes are acknowledged by the standby, and stops it.
func (s *stage) usersMoved(ctx context.Context) {
	s.t.Helper()
	until(ctx, s.t, "the writer's move", func() string {
		if _, at := s.writer.progress(); at != s.standby.name {
			return "it is at the " + at
		}
		return ""
	})
	s.writer.stop()
	s.t.Logf("writer: %d writes acknowledged, longest gap between two %v", len(s.writer.acked), s.writer.gap.Round(time.Millisecond))
}

// nobodyIsBlind waits until each informer holds what the standby has, with what is written there from now on.
func (s *stage) nobodyIsBlind(ctx context.Context) {
	s.t.Helper()
	s.mark(ctx, s.standby, "after-the-switch")
	until(ctx, s.t, "the informers", func() string {
		for _, f := range s.followers {
			if wrong := f.right(ctx, s.t, s.standby); wrong != "" || !f.has("after-the-switch") {
				return fmt.Sprintf("%s; it has the object of after the switch: %v", wrong, f.has("after-the-switch"))
			}
		}
		return ""
	})
	var lists []string
	for _, f := range s.followers {
		lists = append(lists, fmt.Sprintf("%s %d", f.gvr.Resource, f.client.requests.count(s.standby.name, f.gvr.Resource, true)))
	}
	s.t.Logf("%d informers hold what the standby has; lists that each made there: %s", len(s.followers), strings.Join(lists, ", "))
}

// controllersKeep shows that the controllers, which came to the copy at promotion, have taken no dependent.
func (s *stage) controllersKeep(ctx context.Context) {
	s.t.Helper()
	s.standby.settled(ctx, s.t)
	s.standby.collects(ctx, s.t, "ghost")
	if lost := s.standby.lost(ctx, s.t, s.dependents); len(lost) > 0 {
		s.t.Errorf("the garbage collector took %d of %d dependents, such as %s", len(lost), len(s.dependents), lost[0])
	}
	s.t.Logf("%d owner/dependent pairs are there after the controllers were started", len(s.dependents))
}

// revisions shows that the primary's revision is above the standby's: there is something to be blind for.
func (s *stage) revisions(ctx context.Context) {
	s.t.Helper()
	from, to := s.primary.revision(ctx, s.t), s.standby.revision(ctx, s.t)
	if from < to+ahead/2 {
		s.t.Fatalf("the primary is at revision %d and the standby at %d: the test shows nothing", from, to)
	}
	s.t.Logf("the primary is at revision %d, the standby at %d", from, to)
}
