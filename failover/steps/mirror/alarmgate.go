package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/etcdrpc"
)

// AlarmGateConfig says which etcd stops taking writes.
type AlarmGateConfig struct {
	// Client is the primary's etcd's. Required. With authentication its user needs the role root.
	Client *clientv3.Client
	// RequestTimeout is the deadline of each request; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
}

// AlarmGate is a Gate that needs nothing but the primary's etcd: it raises etcd's alarm CORRUPT, with which an etcd refuses every write, deletes, leases and compactions included, while reads and watches go on:
// the mirror and the checks work. The alarm goes through etcd's log, so that all members refuse from one entry on, whoever writes; it lasts over restarts until it is disarmed, which Open does.
//
// Two things are to be known. etcd's /health fails with this alarm, so a liveness probe that asks it restarts the members after a while (kubeadm's is /livez since 1.31, and before that
// /health?exclude=NOSPACE): close the gate for minutes, not hours. Monitoring will report a corrupt etcd; none is. The alarm NOSPACE would be gentler and does not do: with it etcd still deletes.
// Controllers that hold a lock in the primary lose it and exit, as in any outage of etcd.
//
// An etcd with a CORRUPT alarm that this gate did not raise is refused by Close and Open: it may be corrupt indeed. What it raised it knows by a record of its own at the primary,
// /understudy/.gate, written before the alarm and removed after it.
func AlarmGate(cfg AlarmGateConfig) (Gate, error) {
	c := checks{config: "AlarmGateConfig"}
	if cfg.Client == nil {
		c.bad("Client is nil", "pass a clientv3 client of the primary's etcd")
	}
	c.duration("RequestTimeout", &cfg.RequestTimeout, DefaultRequestTimeout)
	if err := c.err(); err != nil {
		return nil, err
	}
	return &alarmGate{AlarmGateConfig: cfg, about: "etcd's alarm CORRUPT at " + strings.Join(cfg.Client.Endpoints(), ",")}, nil
}

type alarmGate struct {
	AlarmGateConfig
	about string
}

// keyGate tells that the alarm is this gate's. Its folder is none that a mirror can be named after.
const keyGate = "/understudy/.gate"

func (g *alarmGate) About() string { return g.about }

// look tells whether the alarm is raised, by which members, and whether it is this gate's.
func (g *alarmGate) look(ctx context.Context) (members []uint64, ours bool, err error) {
	alarms, err := etcdrpc.Do(ctx, g.RequestTimeout, func(ctx context.Context) (*clientv3.AlarmResponse, error) { return g.Client.AlarmList(ctx) })
	if err != nil {
		return nil, false, fmt.Errorf("reading the primary's alarms: %w", err)
	}
	for _, a := range alarms.Alarms {
		if a.Alarm == pb.AlarmType_CORRUPT {
			members = append(members, a.MemberID)
		}
	}
	resp, err := etcdrpc.Do(ctx, g.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return g.Client.Get(ctx, keyGate, clientv3.WithCountOnly())
	})
	if err != nil {
		return nil, false, fmt.Errorf("reading %s: %w", keyGate, err)
	}
	return members, resp.Count > 0, nil
}

var errNotOurs = errors.New("the primary's etcd has the alarm CORRUPT, and not from this gate: a member may be corrupt; find out with etcdctl alarm list and endpoint hashkv, and disarm it yourself if it is not")

func (g *alarmGate) Closed(ctx context.Context) (bool, error) {
	members, ours, err := g.look(ctx)
	if err == nil && len(members) > 0 && !ours {
		err = failover.Permanent(errNotOurs)
	}
	return len(members) > 0, err
}

func (g *alarmGate) Close(ctx context.Context) error {
	members, ours, err := g.look(ctx)
	switch {
	case err != nil:
		return err
	case len(members) > 0 && !ours:
		return failover.Permanent(errNotOurs)
	case len(members) > 0:
		return nil
	}
	var member uint64
	if _, err := etcdrpc.Do(ctx, g.RequestTimeout, func(ctx context.Context) (*clientv3.PutResponse, error) {
		resp, err := g.Client.Put(ctx, keyGate, "closed")
		if err == nil {
			member = resp.Header.MemberId
		}
		return resp, err
	}); err != nil {
		return fmt.Errorf("writing %s: %w", keyGate, err)
	}
	// clientv3 can disarm alarms but not raise them.
	if _, err := etcdrpc.Do(ctx, g.RequestTimeout, func(ctx context.Context) (*pb.AlarmResponse, error) {
		return pb.NewMaintenanceClient(g.Client.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: pb.AlarmType_CORRUPT})
	}); err != nil {
		return fmt.Errorf("raising the alarm: %w", err)
	}
	return nil
}

func (g *alarmGate) Open(ctx context.Context) error {
	members, ours, err := g.look(ctx)
	switch {
	case err != nil:
		return err
	case len(members) > 0 && !ours:
		return failover.Permanent(errNotOurs)
	}
	for _, member := range members {
		if _, err := etcdrpc.Do(ctx, g.RequestTimeout, func(ctx context.Context) (*clientv3.AlarmResponse, error) {
			return g.Client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: member, Alarm: pb.AlarmType_CORRUPT})
		}); err != nil {
			return fmt.Errorf("disarming the alarm: %w", err)
		}
	}
	if _, err := etcdrpc.Do(ctx, g.RequestTimeout, func(ctx context.Context) (*clientv3.DeleteResponse, error) { return g.Client.Delete(ctx, keyGate) }); err != nil {
		return fmt.Errorf("removing %s: %w", keyGate, err)
	}
	return nil
}
