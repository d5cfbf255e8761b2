package traffic

import (
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
)

// object is what a key holds as far as the traffic knows.
type object struct {
	exists bool
	kube   kubeobj.Object // UID "": not a Kubernetes object
	form   form
	lease  int64
}

type form int

const (
	formProtobuf form = iota
	formJSON
	formEncrypted
)

// largeValue is the size from which on a value is counted as large.
const largeValue = 100 << 10

// put makes the put of a new value and remembers it. budget is what may still go into the request, in bytes.
func (g *Generator) put(key string, lease int64, budget *int) clientv3.Op {
	old := g.live[key]
	now := object{exists: true, lease: lease}
	var value []byte
	switch p := g.rng.IntN(100); {
	case p < 4:
		// empty
	case p < 20:
		value = g.bytes(1 + g.rng.IntN(64))
	case p < 30:
		value = g.bytes(1500 + g.rng.IntN(1000))
	case p < 31 && g.cfg.MaxValue >= largeValue && *budget > g.cfg.MaxValue:
		value = g.bytes(largeValue + g.rng.IntN(g.cfg.MaxValue-largeValue+1))
	default:
		now.kube, now.form = g.kube(key, old)
		switch now.form {
		case formJSON:
			value = now.kube.JSON()
		case formEncrypted:
			value = now.kube.Encrypted("aescbc", "key1")
		default:
			value = now.kube.Protobuf()
		}
	}
	if len(value) > min(*budget, g.cfg.MaxValue) {
		value, now.kube = value[:0], kubeobj.Object{}
	}
	*budget -= len(value) + len(key)
	g.live[key] = now
	g.stats.Puts++
	if !strings.HasPrefix(key, g.cfg.Prefix) {
		g.stats.Outside++
	}
	switch {
	case len(value) == 0:
		g.stats.Empty++
	case len(value) >= largeValue:
		g.stats.Large++
	}
	if len(now.kube.Owners) > 0 {
		g.stats.Owned++
	}
	return clientv3.OpPut(key, string(value), clientv3.WithLease(clientv3.LeaseID(lease)))
}

// kube is the next version of the object that the key holds, or a new one.
func (g *Generator) kube(key string, old object) (kubeobj.Object, form) {
	o, f := old.kube, old.form
	if !old.exists || o.UID == "" {
		name := key[strings.LastIndexByte(key, '/')+1:]
		o = kubeobj.Object{APIVersion: "v1", Kind: "Thing", Namespace: "team-0", Name: strings.ToValidUTF8(name, "-"), UID: kubeobj.UID(g.rng)}
		f = []form{formProtobuf, formProtobuf, formJSON, formEncrypted}[g.rng.IntN(4)]
		if f == formEncrypted && g.cfg.Plain {
			f = formProtobuf
		}
		for range g.rng.IntN(3) {
			if owner := g.liveKey(); owner != "" && owner != key && g.live[owner].kube.UID != "" {
				o.Owners = append(o.Owners, g.live[owner].kube.AsOwner())
			}
		}
	}
	o.Generation++
	o.Fill = g.rng.Uint64()
	o.Padding = g.rng.IntN(2500)
	return o, f
}

// bytes draws a value that nothing else can be mistaken for: it starts with a byte that no stored form starts with.
func (g *Generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		if i < 64 || i%64 == 0 {
			b[i] = byte(g.rng.Uint32())
		}
	}
	b[0] = 0x01
	return b
}

func (g *Generator) forget(key string) { delete(g.live, key) }
