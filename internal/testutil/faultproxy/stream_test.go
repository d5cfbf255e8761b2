package faultproxy_test

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/testutil/faultproxy"
)

// seedOf is UNDERSTUDY_SEED, or a new one.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64() >> 2
	if s := os.Getenv("UNDERSTUDY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("UNDERSTUDY_SEED=%d", seed)
		}
	})
	return seed
}

// stream is what one end sends: a function of the place in the stream and of a number that it starts with.
type stream uint32

func (s stream) bytes(from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		if at := from + i; at < 4 {
			b[i] = byte(s >> (8 * at))
		} else {
			b[i] = byte(at*7) ^ byte(at>>8) ^ byte(s)
		}
	}
	return b
}

// echo sends back what it gets, in pieces of its own size.
func echo(c net.Conn) {
	defer c.Close()
	_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 3000))
}

// talk sends streams to an echoing member, connection after connection, until asked to stop, and checks that each brings back
// a prefix of itself. It returns the number of bytes that came back.
func talk(t *testing.T, address string, number *atomic.Uint32, stop <-chan struct{}, rng *rand.Rand) (total int) {
	for {
		select {
		case <-stop:
			return total
		default:
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			continue
		}
		s := stream(number.Add(1))
		var sender sync.WaitGroup
		ended := make(chan struct{})
		sizes := rand.New(rand.NewPCG(rng.Uint64(), 0))
		sender.Go(func() {
			for sent := 0; ; {
				n := 1 + sizes.IntN(40<<10)
				if _, err := c.Write(s.bytes(sent, n)); err != nil {
					return
				}
				sent += n
				select {
				case <-ended:
					return
				case <-time.After(time.Duration(sizes.IntN(3)) * time.Millisecond):
				}
			}
		})
		sender.Go(func() {
			select {
			case <-stop:
				_ = c.Close()
			case <-ended:
			}
		})
		got := 0
		for buf := make([]byte, 64<<10); ; {
			n, err := c.Read(buf)
			if string(buf[:n]) != string(s.bytes(got, n)) {
				t.Errorf("stream %d: wrong bytes between %d and %d", s, got, got+n)
			}
			got += n
			if err != nil {
				break
			}
		}
		close(ended)
		_ = c.Close()
		sender.Wait()
		if total += got; t.Failed() {
			return total
		}
	}
}

// Whatever the faults do, each connection delivers a prefix of what was sent, and when they have ended everything passes again.
func TestStreamsStayPrefixes(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 9))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var members, clients sync.WaitGroup
	members.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			members.Go(func() { echo(c) })
		}
	})
	g := startGroup(t, faultproxy.Options{Seed: seed, Targets: []string{l.Addr().String(), l.Addr().String()}})
	stop := make(chan struct{})
	var number atomic.Uint32
	var total atomic.Int64
	for i := range 6 {
		own := rand.New(rand.NewPCG(seed, uint64(100+i)))
		clients.Go(func() { total.Add(int64(talk(t, g.Endpoints()[i%2], &number, stop, own))) })
	}
	random := func() faultproxy.Fault {
		return faultproxy.Fault{
			Kind: faultproxy.Kinds()[rng.IntN(len(faultproxy.Kinds()))], Direction: faultproxy.Direction(rng.IntN(3)),
			Latency: time.Duration(1+rng.IntN(5000)) * time.Microsecond, Jitter: time.Duration(rng.IntN(5000)) * time.Microsecond,
			BytesPerSecond: 1 << (10 + rng.IntN(15)), Batch: rng.IntN(4),
		}
	}
	hit := func() bool {
		for kind, n := range g.Counters() {
			if kind != faultproxy.Refuse && n.Connections == 0 {
				return false
			}
		}
		return true
	}
	for step := 0; step < 300 || !hit(); step++ {
		if step == 20000 {
			t.Fatalf("not every fault hits a connection: %+v", g.Counters())
		}
		p := g.Proxy(rng.IntN(2))
		switch rng.IntN(5) {
		case 0:
			p.Clear()
		case 1:
			p.Clear(faultproxy.Kinds()[rng.IntN(len(faultproxy.Kinds()))])
		case 2:
			g.Clear()
		default:
			if err := p.Apply(random()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(rng.IntN(4)) * time.Millisecond) // gives faults something to hit, no more
	}
	g.Clear()
	close(stop)
	clients.Wait()
	for _, endpoint := range g.Endpoints() {
		c, err := net.Dial("tcp", endpoint)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		want := stream(7).bytes(0, 1<<20)
		go c.Write(want)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != string(want) {
			t.Errorf("after all faults: %v", err)
		}
		_ = c.Close()
	}
	g.Close()
	_ = l.Close()
	members.Wait()
	t.Logf("%d streams brought back %d bytes; %+v", number.Load(), total.Load(), g.Counters())
	if total.Load() == 0 {
		t.Error("nothing came back: nothing was tested")
	}
}
