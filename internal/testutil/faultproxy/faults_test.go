package faultproxy_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/testutil/faultproxy"
)

func TestWithoutFaultsEverythingPasses(t *testing.T) {
	n := newLine(t, 1)
	client, member := n.pair()
	client.send("question")
	member.get("question")
	if err := client.CloseWrite(); err != nil { // half of the connection lives on
		t.Fatal(err)
	}
	member.ends("", nil)
	member.send("answer")
	client.get("answer")
	_ = member.Close()
	client.ends("", nil)

	client, member = n.pair()
	_ = member.SetLinger(0)
	_ = member.Close()
	client.ends("", reset)

	client, member = n.pair()
	client.send("x")
	member.get("x")
	n.group.Close()
	client.ends("", reset)
	member.ends("", reset)
	for kind, c := range n.proxy.Counters() {
		if c != (faultproxy.Counter{}) {
			t.Errorf("%s counts %+v", kind, c)
		}
	}
}

func TestDeadMember(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	g := startGroup(t, faultproxy.Options{Targets: []string{"http://" + l.Addr().String()}})
	endpoint := g.Endpoints()[0]
	n := &line{t: t, address: strings.TrimPrefix(endpoint, "http://")}
	if n.address == endpoint {
		t.Errorf("endpoint %q has lost its scheme", endpoint)
	}
	n.dialledInVain()
	// In a blackhole even that cannot be known.
	if err := g.Apply(faultproxy.Fault{Kind: faultproxy.Blackhole}); err != nil {
		t.Fatal(err)
	}
	client := n.dial()
	n.proxy = g.Proxy(0)
	n.until(faultproxy.Blackhole, faultproxy.Counter{Applied: 1, Connections: 1})
	g.Clear()
	client.ends("", reset)
}

func TestDelay(t *testing.T) {
	n := newLine(t, 1)
	client, member := n.pair()
	const latency = 30 * time.Millisecond
	n.apply(faultproxy.Fault{Kind: faultproxy.Delay, Direction: faultproxy.Up, Latency: latency, Jitter: 50 * time.Millisecond})
	began := time.Now()
	var want strings.Builder
	for i := range 200 { // with jitter, what comes later must not come earlier
		text := fmt.Sprintf("%d,", i)
		want.WriteString(text)
		client.send(text)
	}
	member.get(want.String())
	if took := time.Since(began); took < latency {
		t.Errorf("the delayed direction took %v", took)
	}
	// The other direction is as fast as before: it would never come with the delay of the next line.
	n.apply(faultproxy.Fault{Kind: faultproxy.Delay, Direction: faultproxy.Up, Latency: time.Hour})
	member.send("not delayed")
	client.get("not delayed")
	// The end of a delay delivers what waits; a new connection is delayed and freed as well.
	client.send("x")
	second := n.dial()
	secondMember := n.member()
	second.send("y")
	_ = second.Close()
	n.until(faultproxy.Delay, faultproxy.Counter{Applied: 1, Connections: 2})
	n.proxy.Clear(faultproxy.Refuse, faultproxy.Delay)
	member.get("x")
	secondMember.ends("y", nil)
}

func TestLimit(t *testing.T) {
	n := newLine(t, 1)
	first, firstMember := n.pair()
	second, secondMember := n.pair()
	n.apply(faultproxy.Fault{Kind: faultproxy.Limit, BytesPerSecond: 100 << 10})
	text := strings.Repeat("x", 10<<10)
	began := time.Now()
	first.send(text)
	second.send(text)
	firstMember.get(text)
	secondMember.get(text)
	// 20 KiB at 100 KiB/s in pieces of 2 KiB, of which the first passes at once.
	if took := time.Since(began); took < 180*time.Millisecond {
		t.Errorf("20 KiB took %v in all", took)
	}
	n.apply(faultproxy.Fault{Kind: faultproxy.Limit, BytesPerSecond: 1})
	firstMember.send(text)
	n.until(faultproxy.Limit, faultproxy.Counter{Applied: 1, Connections: 2})
	n.proxy.Clear()
	first.get(text)
}

func TestRefuse(t *testing.T) {
	n := newLine(t, 1)
	client, member := n.pair()
	for range 3 {
		n.apply(faultproxy.Fault{Kind: faultproxy.Refuse})
		if c, err := net.Dial("tcp", n.address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dialled %v, %v", c, err)
		}
		if l, err := net.Listen("tcp", n.address); err == nil {
			_ = l.Close()
			t.Fatal("somebody else got the port of a proxy that refuses")
		}
		client.send("still here")
		member.get("still here")
		n.proxy.Clear(faultproxy.Refuse)
		fresh, freshMember := n.pair()
		freshMember.send("welcome")
		fresh.get("welcome")
	}
}

func TestReset(t *testing.T) {
	n := newLine(t, 1)
	client, member := n.pair()
	n.apply(faultproxy.Fault{Kind: faultproxy.Delay, Latency: time.Hour})
	client.send("never arrives")
	n.until(faultproxy.Delay, faultproxy.Counter{Applied: 1, Connections: 1})
	n.apply(faultproxy.Fault{Kind: faultproxy.Reset})
	member.ends("", reset)
	client.ends("", reset)
	n.dialledInVain()
	n.until(faultproxy.Reset, faultproxy.Counter{Applied: 1, Connections: 2, Bytes: len("never arrives")})
	n.proxy.Clear()
	client, member = n.pair()
	client.send("again")
	member.get("again")
}

func TestDrop(t *testing.T) {
	n := newLine(t, 1)
	client, member := n.pair()
	n.apply(faultproxy.Fault{Kind: faultproxy.Limit, Direction: faultproxy.Up, BytesPerSecond: 1})
	text := strings.Repeat("x", 100)
	client.send(text)
	member.get("x")
	n.apply(faultproxy.Fault{Kind: faultproxy.Drop})
	client.ends("", nil)
	passed := 1
	for { // the limit may have let some more pass
		k, err := member.Read(make([]byte, len(text)))
		if passed += k; err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("the member got %d bytes and %v", passed, err)
		}
		break
	}
	n.dial().ends("", nil)
	// Bytes that arrive after the FIN do not turn it into a RST, and are counted once the client has ended too.
	client.send("late")
	_ = client.Close()
	_ = member.Close()
	want := faultproxy.Counter{Applied: 1, Connections: 2, Bytes: len(text) - passed + len("late")}
	n.until(faultproxy.Drop, want)
	n.proxy.Clear()
	client, member = n.pair()
	client.send("again")
	member.get("again")
}

func TestBlackhole(t *testing.T) {
	for _, dir := range []faultproxy.Direction{faultproxy.Both, faultproxy.Up, faultproxy.Down} {
		t.Run(fmt.Sprint(dir), func(t *testing.T) {
			n := newLine(t, 1)
			client, member := n.pair()
			idle, idleMember := n.pair()
			client.send("before")
			member.get("before")
			n.apply(faultproxy.Fault{Kind: faultproxy.Blackhole, Direction: dir})
			want := faultproxy.Counter{Applied: 1}
			if dir == faultproxy.Down {
				client.send("passes")
				member.get("passes")
			} else {
				client.send("swallowed")
				want.Connections, want.Bytes = 1, want.Bytes+len("swallowed")
				n.until(faultproxy.Blackhole, want)
			}
			if dir == faultproxy.Up {
				member.send("passes")
				client.get("passes")
			} else {
				member.send("also swallowed")
				want.Connections, want.Bytes = 1, want.Bytes+len("also swallowed")
				n.until(faultproxy.Blackhole, want)
			}
			// A new connection is accepted and swallowed from; so is its end.
			fresh, freshMember := n.pair()
			lost, other := fresh, freshMember
			if dir == faultproxy.Down {
				lost, other = freshMember, fresh
			}
			lost.send("new")
			want.Connections, want.Bytes = 2, want.Bytes+len("new")
			n.until(faultproxy.Blackhole, want)
			_ = lost.Close()
			// With the blackhole every connection ends that lost something, without a byte more.
			n.proxy.Clear()
			other.ends("", reset)
			client.ends("", reset)
			member.ends("", reset)
			idle.send("unhurt")
			idleMember.get("unhurt")
			n.until(faultproxy.Blackhole, want)
		})
	}
}

func TestBadInput(t *testing.T) {
	for target, want := range map[string]string{"": "host:port", "unix:///run/etcd": "host:port", "http://localhost": "host:port"} {
		if g, err := faultproxy.Start(faultproxy.Options{Targets: []string{"127.0.0.1:1", target}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("target %q: %v, %v", target, g, err)
		}
	}
	if _, err := faultproxy.Start(faultproxy.Options{}); err == nil {
		t.Error("no targets: no error")
	}
	n := newLine(t, 1)
	for field, f := range map[string]faultproxy.Fault{
		"Kind": {}, "Direction": {Kind: faultproxy.Delay, Direction: 3}, "Latency": {Kind: faultproxy.Delay}, "Jitter": {Kind: faultproxy.Delay, Latency: 5, Jitter: -1},
		"BytesPerSecond": {Kind: faultproxy.Limit}, "Batch": {Kind: faultproxy.Hold, Batch: -1},
	} {
		for _, apply := range []func(faultproxy.Fault) error{n.proxy.Apply, n.group.Apply} {
			if err := apply(f); err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("%+v: error %v does not name %s", f, err, field)
			}
		}
	}
}

// A delay is a line on which much is under way at once: what waits keeps nothing behind it from being taken up.
func TestDelayTakesUpWhatComesMeanwhile(t *testing.T) {
	n := newLine(t, 1)
	client, member := n.pair()
	if err := n.proxy.Apply(faultproxy.Fault{Kind: faultproxy.Delay, Direction: faultproxy.Down, Latency: time.Hour}); err != nil {
		t.Fatal(err)
	}
	upBefore, downBefore := n.proxy.Arrived()
	const all = 1 << 20
	member.send(strings.Repeat("x", all))
	client.send("question")
	member.get("question")
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		up, down := n.proxy.Arrived()
		if up-upBefore == int64(len("question")) && down-downBefore == all {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d and %d bytes arrived", up-upBefore, down-downBefore)
		}
	}
	n.proxy.Clear()
	client.get(strings.Repeat("x", all))
}
