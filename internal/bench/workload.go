package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
)

// Keys that the benchmark itself writes.
const (
	createdPrefix = prefix + "configmaps/team-00/bench-created-"
	canaryKey     = prefix + "configmaps/team-00/bench-canary"
	lastKey       = prefix + "configmaps/team-00/bench-last"
	leasePrefix   = prefix + "leases/kube-node-lease/node-"
	eventPrefix   = prefix + "events/team-00/bench-"
	probeKey      = "/bench/probe" // at the target, beside what is mirrored
)

// Each value that the workload writes carries the number of its write. The place is one in the filler of every object of kubeobj that is large enough:
// what follows the filler is shorter.
const (
	stampMark     = "bench:"
	stampLen      = len(stampMark) + 16
	stampFromEnd  = 64
	stampMinValue = 1000 // bytes; smaller values may have no filler there
)

func setStamp(value []byte, number int) {
	copy(value[len(value)-stampFromEnd:], fmt.Sprintf("%s%016x", stampMark, number))
}

// stampOf returns the number of the write that a value comes from.
func stampOf(value []byte) (number int, ok bool) {
	if len(value) < stampFromEnd {
		return 0, false
	}
	from := value[len(value)-stampFromEnd:]
	digits, found := bytes.CutPrefix(from[:stampLen], []byte(stampMark))
	if !found {
		return 0, false
	}
	n, err := strconv.ParseUint(string(digits), 16, 63)
	return int(n), err == nil
}

// benchObject is an object that the benchmark makes itself.
func benchObject(kind, namespace, name string, padding int, fill uint64) kubeobj.Object {
	apiVersion := "v1"
	if kind == "Lease" {
		apiVersion = "coordination.k8s.io/v1"
	}
	return kubeobj.Object{APIVersion: apiVersion, Kind: kind, Namespace: namespace, Name: name, Generation: 1, Padding: padding, Fill: fill,
		UID: kubeobj.UID(rand.New(rand.NewPCG(fill, 5)))}
}

// What a cluster writes by itself beside the data set: a lease for each node, and events.
const (
	keysPerLease = 40
	keysPerEvent = 5
	leasePadding = 200 // a node's lease has about 450 bytes
	eventPadding = 600
)

// loadVolatile puts the nodes' leases and the events of a cluster of so many other keys.
func loadVolatile(ctx context.Context, client *clientv3.Client, keys int) error {
	var ops []clientv3.Op
	flush := func() error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		_, err := client.Txn(ctx).Then(ops...).Commit()
		ops = nil
		return err
	}
	add := func(key string, o kubeobj.Object) error {
		if ops = append(ops, clientv3.OpPut(key, string(o.Protobuf()))); len(ops) == 100 {
			return flush()
		}
		return nil
	}
	for i := range max(10, keys/keysPerLease) {
		name := fmt.Sprintf("%05d", i)
		if err := add(leasePrefix+name, benchObject("Lease", "kube-node-lease", "node-"+name, leasePadding, uint64(i))); err != nil {
			return err
		}
	}
	for i := range max(10, keys/keysPerEvent) {
		name := fmt.Sprintf("old-%08d", i)
		if err := add(eventPrefix+name, benchObject("Event", "team-00", "bench-"+name, eventPadding, uint64(i))); err != nil {
			return err
		}
	}
	return flush()
}

// write is one write of the workload; a value of nil deletes.
type write struct {
	number int
	key    string
	value  []byte
	create func() // called once a created key is there
}

// workload draws writes as a cluster makes them: mostly updates of what is there, over all resources, some creates, and deletes of what was created.
type workload struct {
	rng     *rand.Rand
	objects []pair // those that are updated
	leases  []pair // with these, most writes are of nodes' leases and of events
	numbers int

	mu      sync.Mutex
	created []string // and there, oldest first
	events  []string
}

type pair struct {
	key   string
	value []byte
}

// pooled bounds the values that a workload holds in memory.
const pooled = 8000

// newWorkload reads what the workload updates from the source.
func newWorkload(ctx context.Context, source *clientv3.Client, keep func([]byte) bool, cluster bool) (*workload, error) {
	w := &workload{rng: rand.New(rand.NewPCG(7, 7))}
	c, seen := newCursor(source, everything), 0
	for {
		kv, err := c.next(ctx)
		if err != nil {
			return nil, err
		}
		if kv == nil {
			break
		}
		p := pair{string(kv.Key), kv.Value}
		switch {
		case strings.HasPrefix(p.key, leasePrefix):
			if cluster {
				w.leases = append(w.leases, p)
			}
		case strings.HasPrefix(p.key, eventPrefix), len(p.value) < stampMinValue, !keep(kv.Key):
		default: // an even choice of all
			if seen++; len(w.objects) < pooled {
				w.objects = append(w.objects, p)
			} else if i := w.rng.IntN(seen); i < pooled {
				w.objects[i] = p
			}
		}
	}
	if len(w.objects) == 0 || cluster && len(w.leases) == 0 {
		return nil, fmt.Errorf("the source has %d objects and %d leases of nodes to update", len(w.objects), len(w.leases))
	}
	return w, nil
}

// next draws a write. It is called from one goroutine.
func (w *workload) next() write {
	p := w.rng.IntN(100)
	if w.leases == nil {
		return w.object(p)
	}
	switch {
	case p < 50:
		return w.update(w.leases)
	case p < 72:
		return w.make(eventPrefix, "Event", eventPadding, &w.events)
	case p < 80:
		if x, ok := w.remove(&w.events); ok {
			return x
		}
		return w.update(w.leases)
	}
	return w.object(w.rng.IntN(100))
}

// object is a write of what a mirror keeps. p is from 0 to 99.
func (w *workload) object(p int) write {
	switch {
	case p < 5:
		return w.make(createdPrefix, "ConfigMap", 1000+w.rng.IntN(800), &w.created)
	case p < 10:
		if x, ok := w.remove(&w.created); ok {
			return x
		}
	}
	return w.update(w.objects)
}

func (w *workload) update(of []pair) write {
	p := of[w.rng.IntN(len(of))]
	x := write{number: w.number(), key: p.key, value: bytes.Clone(p.value)}
	setStamp(x.value, x.number)
	return x
}

func (w *workload) make(keyPrefix, kind string, padding int, there *[]string) write {
	number := w.number()
	key := fmt.Sprintf("%s%08d", keyPrefix, number)
	_, name, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/team-00/")
	x := write{number: number, key: key, value: benchObject(kind, "team-00", name, padding, uint64(number)).Protobuf()}
	setStamp(x.value, number)
	x.create = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		*there = append(*there, key)
	}
	return x
}

func (w *workload) remove(there *[]string) (write, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(*there) == 0 {
		return write{}, false
	}
	key := (*there)[0]
	*there = (*there)[1:]
	return write{number: w.number(), key: key}, true
}

func (w *workload) number() int {
	w.numbers++
	return w.numbers
}
