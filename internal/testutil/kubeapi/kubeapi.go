package kubeapi

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/internal/testutil/freeport"
	"github.com/understudy-dr/understudy/internal/testutil/testca"
)

// Options describe a control plane. The zero value is an etcd and an API server.
type Options struct {
	// Etcd is the etcd behind the API servers; the zero value starts one of its own.
	Etcd Etcd
	// Prefix is where the API servers keep their objects; "" is /registry.
	Prefix string
	// Servers is how many API servers serve the same etcd; 0 is 1.
	Servers int
	// ControllerManager starts kube-controller-manager, without the controllers that judge nodes. Without it ServiceAccounts are not needed by pods.
	ControllerManager bool
	// LeaderElection makes kube-controller-manager hold its lease, as it does outside of tests; it takes longer to start again.
	LeaderElection bool
	// EncryptionConfig is an EncryptionConfiguration; each API server has a file of its own with it. nil: none.
	EncryptionConfig []byte
	// ServiceCIDR is the range of service addresses; "" is 10.96.0.0/16.
	ServiceCIDR string
	// ServerArgs are further arguments of each API server.
	ServerArgs []string
}

// Etcd is an etcd that runs already.
type Etcd struct {
	Endpoints []string
	// CA, Cert and Key are PEM files; "" each without TLS.
	CA, Cert, Key string
}

// ControlPlane is a running control plane. It ends with its test.
type ControlPlane struct {
	// Servers are the API servers.
	Servers []*Server
	// Etcd is where they keep their objects.
	Etcd Etcd
	// Dir holds its keys, certificates and configurations.
	Dir string

	t           testing.TB
	opts        Options
	logs        string
	ca          *testca.Authority
	token       string
	etcd        *process
	controllers *process
}

// Start starts a control plane and waits until it is ready. It skips the test without binaries.
func Start(ctx context.Context, t testing.TB, opts Options) *ControlPlane {
	t.Helper()
	needed := []string{"kube-apiserver"}
	if len(opts.Etcd.Endpoints) == 0 {
		needed = append(needed, "etcd")
	}
	if opts.ControllerManager {
		needed = append(needed, "kube-controller-manager")
	}
	Need(t, needed...)
	if opts.Servers == 0 {
		opts.Servers = 1
	}
	if opts.Prefix == "" {
		opts.Prefix = "/registry"
	}
	if opts.ServiceCIDR == "" {
		opts.ServiceCIDR = "10.96.0.0/16"
	}
	cp := &ControlPlane{t: t, opts: opts, Etcd: opts.Etcd, Dir: t.TempDir(), token: rand.Text()}
	if err := cp.start(ctx); err != nil {
		t.Fatalf("start a control plane: %v", err)
	}
	return cp
}

func (cp *ControlPlane) start(ctx context.Context) (err error) {
	if cp.logs, err = logFolder(cp.t, cp.Dir); err != nil {
		return err
	}
	if cp.ca, err = testca.New("kubernetes"); err != nil {
		return err
	}
	if err := cp.writeFiles(); err != nil {
		return err
	}
	if len(cp.Etcd.Endpoints) == 0 {
		if err := cp.startEtcd(ctx); err != nil {
			return err
		}
	}
	for i := range cp.opts.Servers {
		s, err := cp.newServer(ctx, i)
		if err != nil {
			return err
		}
		cp.Servers = append(cp.Servers, s)
	}
	if cp.opts.ControllerManager {
		cp.controllers = cp.process("kube-controller-manager", "kube-controller-manager")
		return cp.StartControllers()
	}
	return nil
}

// logFolder is where the control plane's logs go.
func logFolder(t testing.TB, dir string) (string, error) {
	if kept := os.Getenv(LogsVariable); kept != "" {
		if err := os.MkdirAll(kept, 0o755); err != nil {
			return "", err
		}
		return os.MkdirTemp(kept, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())+"-")
	}
	return dir, nil
}

func (cp *ControlPlane) file(name string) string { return filepath.Join(cp.Dir, name) }

// writeFiles writes what all programs share.
func (cp *ControlPlane) writeFiles() error {
	if err := cp.ca.WriteCert(cp.file("ca.crt")); err != nil {
		return err
	}
	if err := cp.ca.Server("kube-apiserver", cp.file("apiserver.crt"), cp.file("apiserver.key")); err != nil {
		return err
	}
	// A certificate is a way to write a public key, too.
	if err := cp.ca.Client("service-accounts", nil, cp.file("sa.crt"), cp.file("sa.key")); err != nil {
		return err
	}
	if err := cp.ca.Client("kube-apiserver-kubelet-client", []string{user.SystemPrivilegedGroup}, cp.file("kubelet-client.crt"), cp.file("kubelet-client.key")); err != nil {
		return err
	}
	return os.WriteFile(cp.file("tokens.csv"), fmt.Appendf(nil, "%s,admin,admin,%q\n", cp.token, user.SystemPrivilegedGroup), 0o600)
}

func (cp *ControlPlane) startEtcd(ctx context.Context) error {
	cp.etcd = cp.process("etcd", "etcd")
	var url string
	err := cp.etcd.startOnFreePorts(ctx, 2, func(ports []int) []string {
		url = "http://" + freeport.Loopback(ports[0])
		peer := "http://" + freeport.Loopback(ports[1])
		return []string{
			"--name=etcd", "--data-dir=" + cp.file("etcd"), "--listen-client-urls=" + url, "--advertise-client-urls=" + url,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=etcd=" + peer,
			"--initial-cluster-token=" + cp.token[:8], "--unsafe-no-fsync", "--log-level=warn",
		}
	}, func(ctx context.Context) error { return get(ctx, http.DefaultClient, url+"/readyz") })
	cp.Etcd = Etcd{Endpoints: []string{url}}
	return err
}

// StartControllers starts the controller manager, again after StopControllers. It works through the first API server.
func (cp *ControlPlane) StartControllers() error {
	kubeconfig := cp.file("admin.conf")
	if err := os.WriteFile(kubeconfig, cp.Servers[0].Kubeconfig(), 0o600); err != nil {
		return err
	}
	cp.controllers.start([]string{
		"--kubeconfig=" + kubeconfig, fmt.Sprintf("--leader-elect=%v", cp.opts.LeaderElection), "--secure-port=0", "--service-account-private-key-file=" + cp.file("sa.key"), "--root-ca-file=" + cp.file("ca.crt"),
		"--controllers=*,-node-lifecycle-controller,-node-ipam-controller,-node-route-controller,-taint-eviction-controller",
	})
	return nil
}

// StopControllers stops the controller manager.
func (cp *ControlPlane) StopControllers(ctx context.Context) error { return cp.controllers.stop(ctx) }

// KillEtcd kills the etcd that the control plane started for itself, without a chance to clean up.
func (cp *ControlPlane) KillEtcd() { cp.etcd.kill() }

// Client is a client of the first API server with all rights.
func (cp *ControlPlane) Client() kubernetes.Interface { return cp.Servers[0].Client() }

// REST is how to reach the first API server with all rights.
func (cp *ControlPlane) REST() *rest.Config { return cp.Servers[0].REST() }

// get asks for a page and wants status 200.
func get(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout/10)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, answer.Status)
	}
	return nil
}
