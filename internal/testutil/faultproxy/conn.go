package faultproxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// dialTimeout bounds a connect to a member.
const dialTimeout = 5 * time.Second

// conn is a client's connection and the one to the member that belongs to it.
type conn struct {
	proxy  *Proxy
	client *net.TCPConn
	ctx    context.Context // ends when nothing is delivered any more
	cancel context.CancelFunc
	flows  [2]flow

	// Guarded by the group's mutex.
	member *net.TCPConn // nil until dial has succeeded
	over   bool         // nothing is delivered any more
	by     Kind         // the fault that ended it, or ""
	hits   map[Kind]int // kind -> the activation of the fault that counted this connection
}

// dial connects to the member, if it answers and the connection is not over.
func (c *conn) dial() {
	dialer := net.Dialer{Timeout: dialTimeout}
	tcp, err := dialer.DialContext(c.ctx, "tcp", c.proxy.target)
	g := c.proxy.group
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err != nil:
	case c.over:
		_ = tcp.(*net.TCPConn).SetLinger(0)
		_ = tcp.Close()
	default:
		c.member = tcp.(*net.TCPConn)
	}
}

// run passes bytes until both directions have ended, or the connection is over. dial has returned.
func (c *conn) run() {
	defer c.forget()
	if c.member == nil {
		c.unconnected()
		return
	}
	var all sync.WaitGroup
	all.Go(func() { c.read(up, c.client) })
	all.Go(func() { c.read(down, c.member) })
	all.Go(func() { c.write(up, c.member) })
	all.Go(func() { c.write(down, c.client) })
	all.Wait()
	c.linger()
}

// unconnected ends a client's connection whose member does not answer, or which is over already.
func (c *conn) unconnected() {
	if c.ctx.Err() == nil {
		c.deliver(down, nil, item{broken: true})
		c.linger()
	}
	if c.ctx.Err() != nil {
		c.flows[up].arrived.Add(discard(c.client)) // after a drop, until the client has ended too
	}
}

// linger keeps a connection whose end was swallowed open until the blackhole ends.
func (c *conn) linger() {
	g := c.proxy.group
	g.mu.Lock()
	lossy := c.lossy()
	g.mu.Unlock()
	if lossy {
		<-c.ctx.Done()
	}
}

// discard reads to the end.
func discard(tcp *net.TCPConn) (bytes int64) {
	buf := make([]byte, chunk)
	for {
		n, err := tcp.Read(buf)
		bytes += int64(n)
		if err != nil {
			return bytes
		}
	}
}

// forget closes what is left.
func (c *conn) forget() {
	g := c.proxy.group
	g.mu.Lock()
	defer g.mu.Unlock()
	c.over = true
	c.cancel()
	_ = c.client.Close()
	if c.member != nil {
		_ = c.member.Close()
	}
	delete(c.proxy.conns, c)
	if n := c.proxy.counters[c.by]; n != nil {
		for i := range c.flows {
			n.Bytes += int(c.flows[i].arrived.Load() - c.flows[i].left.Load())
		}
	}
}

// endBy ends the connection by a fault. One that was dropped may still be reset. The group's mutex is held.
func (c *conn) endBy(kind Kind) {
	if !c.over {
		c.by = kind
		c.proxy.hit(c, kind, 0)
	}
	switch {
	case kind == Reset:
		c.reset()
	case !c.over:
		c.drop()
	}
}

// reset ends the connection with a RST to both ends. The group's mutex is held.
func (c *conn) reset() {
	c.over = true
	c.cancel()
	for _, tcp := range []*net.TCPConn{c.client, c.member} {
		if tcp != nil {
			_ = tcp.SetLinger(0) // fails only when closed already
			_ = tcp.Close()
		}
	}
}

// drop ends the connection with a FIN to both ends. What they still send is read and thrown away: unread bytes would turn
// the FIN into a RST. The group's mutex is held.
func (c *conn) drop() {
	c.over = true
	c.cancel()
	_ = c.client.CloseWrite()
	if c.member != nil {
		_ = c.member.CloseWrite()
	}
}

// lossy tells whether something of the connection was swallowed. The group's mutex is held.
func (c *conn) lossy() bool { return c.flows[up].lossy || c.flows[down].lossy }
