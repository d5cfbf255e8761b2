package kubeapi

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/internal/testutil/freeport"
)

// Server is an API server. It keeps its port over a restart.
type Server struct {
	// Addr is its host and port.
	Addr string
	// EncryptionConfigFile is the file that it reads at its start; "" without Options.EncryptionConfig. A test may replace it.
	EncryptionConfigFile string

	cp      *ControlPlane
	index   int
	process *process
	client  *http.Client
	kube    kubernetes.Interface
}

func (cp *ControlPlane) newServer(ctx context.Context, index int) (*Server, error) {
	s := &Server{cp: cp, index: index, process: cp.process("kube-apiserver", fmt.Sprintf("kube-apiserver-%d", index))}
	if cp.opts.EncryptionConfig != nil {
		s.EncryptionConfigFile = cp.file(fmt.Sprintf("encryption-%d.yaml", index))
		if err := os.WriteFile(s.EncryptionConfigFile, cp.opts.EncryptionConfig, 0o600); err != nil {
			return nil, err
		}
	}
	var err error
	if s.client, err = rest.HTTPClientFor(s.REST()); err != nil { // the address is not part of it
		return nil, err
	}
	cp.t.Cleanup(s.client.CloseIdleConnections)
	err = s.process.startOnFreePorts(ctx, 1, func(ports []int) []string {
		s.Addr = freeport.Loopback(ports[0])
		return s.args()
	}, s.Ready)
	if err != nil {
		return nil, err
	}
	s.kube, err = kubernetes.NewForConfigAndClient(s.REST(), s.client)
	return s, err
}

func (s *Server) args() []string {
	cp := s.cp
	host, port, _ := strings.Cut(s.Addr, ":")
	args := []string{
		"--etcd-servers=" + strings.Join(cp.Etcd.Endpoints, ","), "--etcd-prefix=" + cp.opts.Prefix,
		"--bind-address=" + host, "--secure-port=" + port,
		// Of those addresses that documentation uses: the servers of one etcd are told apart by it, and a loopback address is refused.
		fmt.Sprintf("--advertise-address=192.0.2.%d", s.index+1),
		"--tls-cert-file=" + cp.file("apiserver.crt"), "--tls-private-key-file=" + cp.file("apiserver.key"), "--client-ca-file=" + cp.file("ca.crt"),
		"--token-auth-file=" + cp.file("tokens.csv"), "--authorization-mode=Node,RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + cp.file("sa.crt"), "--service-account-signing-key-file=" + cp.file("sa.key"),
		"--service-cluster-ip-range=" + cp.opts.ServiceCIDR,
		"--kubelet-client-certificate=" + cp.file("kubelet-client.crt"), "--kubelet-client-key=" + cp.file("kubelet-client.key"), "--kubelet-preferred-address-types=InternalIP",
	}
	if cp.Etcd.CA != "" {
		args = append(args, "--etcd-cafile="+cp.Etcd.CA, "--etcd-certfile="+cp.Etcd.Cert, "--etcd-keyfile="+cp.Etcd.Key)
	}
	if !cp.opts.ControllerManager {
		args = append(args, "--disable-admission-plugins=ServiceAccount") // nobody makes the accounts
	}
	if s.EncryptionConfigFile != "" {
		args = append(args, "--encryption-provider-config="+s.EncryptionConfigFile)
	}
	return append(args, cp.opts.ServerArgs...)
}

// REST is how to reach this server with all rights.
func (s *Server) REST() *rest.Config {
	return &rest.Config{
		Host: "https://" + s.Addr, BearerToken: s.cp.token, TLSClientConfig: rest.TLSClientConfig{CAFile: s.cp.file("ca.crt")},
		QPS: -1, // a test is not held back
	}
}

// Client is a client of this server with all rights.
func (s *Server) Client() kubernetes.Interface { return s.kube }

// Kubeconfig is a kubeconfig for this server with all rights.
func (s *Server) Kubeconfig() []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://%s", certificate-authority: %q}}]
users: [{name: admin, user: {token: %q}}]
contexts: [{name: admin@test, context: {cluster: test, user: admin}}]
current-context: admin@test
`, s.Addr, s.cp.file("ca.crt"), s.cp.token)
}

// Ready asks the server whether it is ready.
func (s *Server) Ready(ctx context.Context) error {
	return get(ctx, s.client, "https://"+s.Addr+"/readyz")
}

// LogFile is what the server has written, over all its starts.
func (s *Server) LogFile() string { return s.process.log }

// Kill kills the server without a chance to clean up.
func (s *Server) Kill() { s.process.kill() }

// Stop asks the server to end and waits until it has.
func (s *Server) Stop(ctx context.Context) error { return s.process.stop(ctx) }

// Start starts a server that was stopped or killed on the same port and data, and waits until it is ready.
func (s *Server) Start(ctx context.Context) error {
	if s.process.running() {
		return fmt.Errorf("the API server %s runs already", s.Addr)
	}
	s.process.start(s.args())
	return s.process.await(ctx, s.Ready)
}

// Restart kills the server and starts it again, as the removal of its container does.
func (s *Server) Restart(ctx context.Context) error {
	s.Kill()
	return s.Start(ctx)
}
