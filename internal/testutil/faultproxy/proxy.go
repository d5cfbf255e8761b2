package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
)

// Proxy passes connections on to one member. Its methods may be called from several goroutines.
type Proxy struct {
	group  *Group
	index  int
	scheme string
	target string
	own    string // the address that it listens on
	port   *heldPort

	// Guarded by the group's mutex.
	listener net.Listener // nil while new connections are refused
	conns    map[*conn]bool
	accepted uint64
	changed  chan struct{} // closed and replaced when a delay, limit or blackhole changes
	links    [2]link
	active   map[Kind]int // how often a kind was switched on; 0 while it is off
	applied  map[Kind]int
	counters map[Kind]*Counter
	holds    bool
	batch    int

	arrived [2]atomic.Int64 // bytes that the ends have sent, up and down
}

const retryPause = 10 * time.Millisecond

// link is what the connections of a proxy share in one direction.
type link struct {
	latency, jitter time.Duration
	bytesPerSecond  int       // 0: no limit
	free            time.Time // when the limit lets more pass
	blackhole       bool
}

func newProxy(g *Group, index int, target string) (*Proxy, error) {
	scheme, hostPort, err := address(target)
	if err != nil {
		return nil, err
	}
	p := &Proxy{group: g, index: index, scheme: scheme, target: hostPort, conns: map[*conn]bool{}, changed: make(chan struct{}),
		active: map[Kind]int{}, applied: map[Kind]int{}, counters: map[Kind]*Counter{}}
	for _, kind := range Kinds() {
		p.counters[kind] = &Counter{}
	}
	if p.port, err = holdPort(); err != nil {
		return nil, fmt.Errorf("faultproxy: take a port: %w", err)
	}
	p.own = p.port.address
	if err := p.listen(); err != nil {
		p.port.release()
		return nil, fmt.Errorf("faultproxy: listen: %w", err)
	}
	return p, nil
}

// Endpoint is where clients connect to, with the target's scheme.
func (p *Proxy) Endpoint() string { return p.scheme + p.own }

// Apply switches a fault on, or changes it.
func (p *Proxy) Apply(f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	p.apply(f)
	return nil
}

// Clear ends the faults of the kinds, or all faults if none is named.
func (p *Proxy) Clear(kinds ...Kind) { p.group.clear([]*Proxy{p}, kinds) }

// Counters tell what each kind of fault did.
func (p *Proxy) Counters() map[Kind]Counter {
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	all := map[Kind]Counter{}
	for kind, n := range p.counters {
		all[kind] = *n
	}
	return all
}

// Arrived tells how many bytes clients (up) and the member (down) have sent to the proxy, whatever became of them.
func (p *Proxy) Arrived() (up, down int64) { return p.arrived[0].Load(), p.arrived[1].Load() }

// listen opens the proxy's port. The group's mutex is held, or nobody else knows the proxy.
func (p *Proxy) listen() error {
	l, err := p.port.listen()
	if err != nil {
		return err
	}
	p.listener = l
	p.group.running.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		tcp, err := l.Accept()
		switch {
		case err == nil:
			p.admit(tcp.(*net.TCPConn))
		case errors.Is(err, net.ErrClosed):
			return
		default: // such as too many open files
			time.Sleep(retryPause)
		}
	}
}

// listenLater opens the port once whatever is in the way has gone. Where a port cannot be held somebody else may have it for a moment.
func (p *Proxy) listenLater() {
	for {
		time.Sleep(retryPause)
		p.group.mu.Lock()
		done := p.group.closed || p.active[Refuse] > 0 || p.listener != nil || p.listen() == nil
		p.group.mu.Unlock()
		if done {
			return
		}
	}
}

// admit decides what becomes of a new connection.
func (p *Proxy) admit(client *net.TCPConn) {
	g := p.group
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	c := &conn{proxy: p, client: client, ctx: ctx, cancel: cancel, hits: map[Kind]int{}}
	for i := range c.flows {
		stream := p.accepted<<9 | uint64(p.index)<<1 | uint64(i) // another one for each flow of the group
		c.flows[i] = flow{rng: rand.New(rand.NewPCG(g.seed, stream+1)), queue: make(chan item, queued)}
	}
	p.accepted++
	p.conns[c] = true
	switch {
	case g.closed:
		c.reset()
	case p.active[Reset] > 0:
		c.endBy(Reset)
	case p.active[Drop] > 0:
		c.endBy(Drop)
	case p.holds:
		p.hit(c, Hold, 0)
		g.held = append(g.held, c)
		if p.batch > 0 && len(g.held) >= p.batch {
			through := g.held
			g.held = nil
			g.letThrough(through)
		}
		return // it has no goroutine until letThrough runs it
	}
	g.running.Go(func() {
		c.dial()
		c.run()
	})
}

// apply changes the faults. The group's mutex is held.
func (p *Proxy) apply(f Fault) {
	if p.group.closed {
		return
	}
	if p.active[f.Kind] == 0 {
		p.applied[f.Kind]++
		p.active[f.Kind] = p.applied[f.Kind]
		p.counters[f.Kind].Applied++
	}
	switch f.Kind {
	case Delay, Limit, Blackhole:
		for _, i := range f.Direction.flows() {
			l := &p.links[i]
			switch f.Kind {
			case Delay:
				l.latency, l.jitter = f.Latency, f.Jitter
			case Limit:
				l.bytesPerSecond, l.free = f.BytesPerSecond, time.Time{}
			case Blackhole:
				l.blackhole = true
			}
		}
		p.wake()
	case Refuse:
		if p.listener != nil {
			_ = p.listener.Close() // it has no other way to fail than being closed already
			p.listener = nil
		}
	case Reset:
		for c := range p.conns {
			c.endBy(Reset)
		}
	case Drop:
		for c := range p.conns {
			c.endBy(Drop)
		}
	case Hold:
		p.holds, p.batch = true, f.Batch
	}
}

// clearKind ends a fault. The group's mutex is held.
func (p *Proxy) clearKind(kind Kind) {
	if p.active[kind] == 0 {
		return
	}
	p.active[kind] = 0
	switch kind {
	case Delay, Limit, Blackhole:
		for i := range p.links {
			l := &p.links[i]
			switch kind {
			case Delay:
				l.latency, l.jitter = 0, 0
			case Limit:
				l.bytesPerSecond = 0
			case Blackhole:
				l.blackhole = false
			}
		}
		if kind == Blackhole {
			for c := range p.conns {
				if c.lossy() {
					c.reset()
				}
			}
		}
		p.wake()
	case Refuse:
		if p.listen() != nil {
			p.group.running.Go(p.listenLater)
		}
	case Hold:
		p.holds = false
	}
}

func (p *Proxy) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// hit counts a connection, once for each time that the fault was switched on, and bytes.
func (p *Proxy) hit(c *conn, kind Kind, bytes int) {
	n := p.counters[kind]
	n.Bytes += bytes
	if c.hits[kind] != p.active[kind] {
		c.hits[kind] = p.active[kind]
		n.Connections++
	}
}

// close ends everything. The group's mutex is held.
func (p *Proxy) close() {
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	p.port.release()
	for c := range p.conns {
		c.reset()
	}
}
