package faultproxy

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
)

const (
	chunk  = 16 << 10 // bytes read at once
	queued = 256      // chunks of one flow that wait at most; then the sender is slowed down, as by a full buffer on the way
)

// flow is one direction of a connection.
type flow struct {
	rng     *rand.Rand
	queue   chan item
	arrived atomic.Int64 // bytes read
	left    atomic.Int64 // bytes delivered or swallowed by a blackhole; the difference is lost with the connection
	lossy   bool         // something was swallowed; guarded by the group's mutex
}

// item is something to deliver.
type item struct {
	data   []byte
	eof    bool // the sender sends nothing more
	broken bool // the connection ended with an error
	at     time.Time
	jitter float64 // how much of the jitter it gets, from 0 to 1
}

// read queues what one end sends.
func (c *conn) read(dir int, from *net.TCPConn) {
	f := &c.flows[dir]
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		f.arrived.Add(int64(n))
		c.proxy.arrived[dir].Add(int64(n))
		if n > 0 && !c.push(f, item{data: append([]byte(nil), buf[:n]...)}) {
			f.arrived.Add(discard(from)) // after a drop, until the sender has ended too
			return
		}
		if err != nil {
			eof := errors.Is(err, io.EOF)
			c.push(f, item{eof: eof, broken: !eof})
			return
		}
	}
}

// push queues an item; false if the connection is over.
func (c *conn) push(f *flow, it item) bool {
	it.at, it.jitter = time.Now(), f.rng.Float64()
	select {
	case f.queue <- it:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// write delivers what read queued.
func (c *conn) write(dir int, to *net.TCPConn) {
	for {
		select {
		case it := <-c.flows[dir].queue:
			if !c.deliver(dir, to, it) {
				return
			}
		case <-c.ctx.Done():
			return
		}
	}
}

// deliver brings an item to its receiver when the faults let it pass. It returns false when nothing comes after it.
func (c *conn) deliver(dir int, to *net.TCPConn, it item) bool {
	f := &c.flows[dir]
	for {
		pass, n := c.await(dir, it)
		switch {
		case !pass:
			return !it.eof && !it.broken && c.ctx.Err() == nil
		case it.broken:
			c.end()
			return false
		case it.eof:
			_ = to.CloseWrite() // where it fails the receiver has gone, which its own flow tells
			return false
		}
		written, err := to.Write(it.data[:n])
		f.left.Add(int64(written))
		if err != nil {
			// The receiver has gone. The news of that travels the other way.
			c.deliver(1-dir, nil, item{broken: true, at: time.Now()})
			return false
		}
		if it.data = it.data[n:]; len(it.data) == 0 {
			return true
		}
	}
}

// end resets the connection, unless it is over.
func (c *conn) end() {
	g := c.proxy.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if !c.over {
		c.reset()
	}
}

// await waits until the item, or n bytes of it, may pass; false: it is swallowed, or the connection is over.
func (c *conn) await(dir int, it item) (pass bool, n int) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, n, changed := c.look(dir, it)
		switch {
		case wait < 0:
			return false, 0
		case wait == 0:
			return true, n
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-c.ctx.Done():
			return false, 0
		}
	}
}

// look decides on an item: after what time to look again, 0 for n bytes that may pass now, or -1 if it is swallowed.
func (c *conn) look(dir int, it item) (wait time.Duration, n int, changed <-chan struct{}) {
	p, f := c.proxy, &c.flows[dir]
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	l := &p.links[dir]
	switch {
	case c.over:
		return -1, 0, nil
	case f.lossy || l.blackhole:
		f.lossy = true
		f.left.Add(int64(len(it.data)))
		p.hit(c, Blackhole, len(it.data))
		return -1, 0, nil
	}
	now := time.Now()
	if l.latency+l.jitter > 0 {
		p.hit(c, Delay, 0)
		due := it.at.Add(l.latency + time.Duration(it.jitter*float64(l.jitter)))
		if wait := due.Sub(now); wait > 0 {
			return wait, 0, p.changed
		}
	}
	n = len(it.data)
	if l.bytesPerSecond > 0 && n > 0 {
		p.hit(c, Limit, 0)
		if wait := l.free.Sub(now); wait > 0 {
			return wait, 0, p.changed
		}
		n = min(n, max(1, l.bytesPerSecond/50)) // in small pieces, so that nothing comes at one stroke
		l.free = now.Add(time.Duration(n) * time.Second / time.Duration(l.bytesPerSecond))
	}
	return 0, n, nil
}
