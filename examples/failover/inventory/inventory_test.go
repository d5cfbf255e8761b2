package inventory

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/testca"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// secret is a word that no plan and no error may contain.
const secret = "hunter2secret"

// folder is one with the example and all files that it names, and more fields for the runbooks that it leaves out.
func folder(t *testing.T, edit func(text string) string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := testca.New("test")
	if err != nil {
		t.Fatal(err)
	}
	for _, dc := range []string{"dc1", "dc2"} {
		write(dc+"/admin.kubeconfig", kubeconfig(dc))
		in := func(name string) string { return filepath.Join(dir, dc, name) }
		if err := errors.Join(ca.WriteCert(in("etcd-ca.crt")), ca.Client("dr", nil, in("etcd-client.crt"), in("etcd-client.key"))); err != nil {
			t.Fatal(err)
		}
	}
	write("business-1.kubeconfig", kubeconfig("business-1"))
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	write("id_ed25519", string(pem.EncodeToMemory(block)))
	write("known_hosts", "")
	write("dns.key", fmt.Sprintf("key \"dr\" {\n\talgorithm hmac-sha256;\n\tsecret \"%s\";\n};\n", base64.StdEncoding.EncodeToString([]byte(secret+"-0123456789abcdef"))))
	write("password", secret+"\n")
	write("gluster.json", `{"version":1,"volumes":{"vol1":{"type":"auto","count":"2"}}}`)
	text := Example
	for _, dc := range []string{"dc1", "dc2"} {
		vip := map[string]string{"dc1": "10.1.0.10", "dc2": "10.2.0.10"}[dc]
		text = strings.Replace(text, "  "+dc+":\n", "  "+dc+":\n    installation: {platformAddress: platform.example.com, otherPlatformAddresses: ["+vip+"], clusterEndpoint: "+vip+
			", httpPort: 80, httpsPort: 443, certFile: dc1/etcd-client.crt, keyFile: dc1/etcd-client.key, registryAddress: registry.example.com, registryPasswordFile: password, adminUser: admin, adminPasswordFile: password}\n", 1)
	}
	text += `
stretch:
  name: metro
  hosts: [{name: m1}, {name: m2}, {name: m3}]
  lost: [m1, m2]
  snapshot: survivor.db
  roundTrip: ["10.3.0.1:2380"]
  members:
  - {name: m1, host: m1, peerURLs: ["https://10.3.0.1:2380"], etcd: {endpoints: ["http://10.3.0.1:2379"]}}
  - {name: m2, host: m2, peerURLs: ["https://10.3.0.2:2380"], etcd: {endpoints: ["http://10.3.0.2:2379"]}}
  - {name: m3, host: m3, peerURLs: ["https://10.3.0.3:2380"], etcd: {endpoints: ["http://10.3.0.3:2379"]}, manifest: /etc/kubernetes/manifests/etcd.yaml}
  glusterfs: {host: m3, saved: gluster.json, labels: [glusterfs=storage-host]}
`
	if edit != nil {
		text = edit(text)
	}
	write("inventory.yaml", text)
	return filepath.Join(dir, "inventory.yaml")
}

func kubeconfig(name string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://%s.example.com:6443"}}]
users: [{name: u, user: {token: %s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, name, secret)
}

// plan makes the plan of a runbook; nothing of it is contacted.
func plan(t *testing.T, path, runbook string) (*failover.Plan, error) {
	t.Helper()
	inv, err := Load(path, "", "")
	if err != nil {
		return nil, err
	}
	site, err := inv.Open(testutil.Context(t), runbook)
	if err != nil {
		return nil, err
	}
	t.Cleanup(site.Close)
	return site.Plan(runbook)
}

// steps are the plan's, without those that are left out.
func steps(p *failover.Plan) (names []string) {
	for _, s := range p.Document().Steps {
		if !s.LeftOut {
			names = append(names, s.Name)
		}
	}
	return names
}

// The plans of the example, step by step.
func TestPlans(t *testing.T) {
	path := folder(t, nil)
	const begin, end = "etcds hosts dns-allowed dns-resolvers-answer dns-leads", " apiserver-ready/10.2.0.1:6443"
	const preflight = begin + " haproxy/lb2 haproxy/lb1" + end
	const promoted = "stop-mirror/dc2 epoch-fence revision-fence restart-apiserver/10.2.0.1:6443"
	const arrived = "point-of-no-return etcd-off/lb1 etcd-off/lb2 clients-on/lb2 dns-record dns-resolvers lookup-inside browser restart/dc2/elasticsearch restart/dc2/monitoring restart/dc2/cluster-transformer restart/business-1/warlock"
	const switched = "verdict dns-ttl dns-caches-expired revision-gap clients-off/lb1 quiesce drain " + promoted + " " + arrived
	const back = "reopen etcd-on/lb2 mirror-to/dc1 remove-stale/dc1 verdict/dc1"
	for runbook, want := range map[string]string{
		"setup": "parameters parity/dc1 dns/dc1 dns/dc1/resolvers install/dc1 parity/dc2 parity/pair dns/dc2 dns/dc2/resolvers encryption-config/standby-global-m1 install/dc2 dns/dc1-again dns/dc1-again/resolvers " +
			"etcd-on/lb1 ports/dc1 etcd-on/lb2 ports/dc2 log-storage posture mirror-to/dc2 verdict restart/dc2/elasticsearch restart/dc2/monitoring",
		"switchover": preflight + " log-storage " + switched + " " + back,
		"failover":   begin + " haproxy/lb2" + end + " log-storage clients-off/lb1 primary-off verdict revision-gap " + promoted + " " + arrived,
		"failback": preflight + " clients-off/lb2 difference-report differences-read etcd-on/lb1 mirror-to/dc2 remove-stale/dc2 verdict/dc2 log-storage " + switched +
			" " + back,
		"drill":            begin + end + " log-storage verdict revision-gap drain " + promoted,
		"stretch-restore":  "etcd/quorum-lost etcd/fence etcd/backup/m3 etcd/stop/m3 etcd/force/m3 etcd/remove/m1 etcd/remove/m2 etcd/health glusterfs/set-quorum workloads",
		"stretch-failback": "round-trip etcd/add/m1 etcd/add/m2 etcd/health labels glusterfs/restore-quorum heal",
	} {
		p, err := plan(t, path, runbook)
		if err != nil {
			t.Errorf("%s: %v", runbook, err)
			continue
		}
		if got := strings.Join(steps(p), " "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", runbook, got, want)
		}
		var text strings.Builder
		for _, write := range []func() error{func() error { return p.WriteTable(&text) }, func() error { return p.WriteMarkdown(&text) }, func() error { return p.WriteJSON(&text) }} {
			if err := write(); err != nil {
				t.Error(err)
			}
		}
		if strings.Contains(text.String(), secret) || strings.Contains(text.String(), base64.StdEncoding.EncodeToString([]byte(secret))[:10]) {
			t.Errorf("%s shows a secret", runbook)
		}
		again, err := plan(t, path, runbook)
		if err != nil || again.Hash() != p.Hash() {
			t.Errorf("%s: the same inventory makes another plan: %v", runbook, err)
		}
	}
}

// Where a switch can be undone to, and where it cannot.
func TestPointsOfNoReturn(t *testing.T) {
	path := folder(t, nil)
	for runbook, want := range map[string]string{"switchover": "point-of-no-return", "failover": "point-of-no-return", "drill": "", "failback": "mirror-to/dc2", "stretch-restore": "etcd/force/m3"} {
		p, err := plan(t, path, runbook)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Document().PointOfNoReturn(); got != want {
			t.Errorf("%s: %q, want %q", runbook, got, want)
		}
	}
}

// Each fault of an inventory is named with its field and what to do, before anything is contacted.
func TestBadInventories(t *testing.T) {
	replace := func(old, new string) func(string) string {
		return func(text string) string {
			if !strings.Contains(text, old) {
				t.Fatalf("the example has no %q", old)
			}
			return strings.Replace(text, old, new, 1)
		}
	}
	for name, tc := range map[string]struct {
		edit    func(string) string
		runbook string
		want    []string
	}{
		"unknown field":      {replace("primary: dc1", "primary: dc1\nprimery: dc1"), "switchover", []string{"primery: is not a known field", "known are"}},
		"missing VIP":        {replace("    vips: [10.2.0.10]\n", ""), "switchover", []string{"clusters.dc2.vips: is missing"}},
		"the same twice":     {replace("standby: dc2", "standby: dc1"), "switchover", []string{`standby: "dc1" is the primary`}},
		"no such cluster":    {replace("standby: dc2", "standby: dc3"), "switchover", []string{`standby: "dc3" is no cluster`, "dc1, dc2"}},
		"shared etcd":        {replace("https://10.2.0.1:2379", "https://10.1.0.1:2379"), "switchover", []string{"Primary.Etcd and Standby.Etcd share the endpoint https://10.1.0.1:2379"}},
		"etcd by VIP":        {replace("https://10.2.0.1:2379", "https://10.2.0.10:2379"), "switchover", []string{"Standby.Etcd goes through the virtual IP"}},
		"shared VIP":         {replace("vips: [10.2.0.10]", "vips: [10.1.0.10]"), "switchover", []string{"share 10.1.0.10"}},
		"VIP is a name":      {replace("vips: [10.2.0.10]", "vips: [lb2]"), "switchover", []string{"Standby.VIPs[0]", "is no address"}},
		"no resolver":        {replace("  resolvers: [10.0.0.53, 10.0.1.53]\n", ""), "switchover", []string{"dns.resolvers: is missing"}},
		"bad resolver":       {replace("resolvers: [10.0.0.53, 10.0.1.53]", "resolvers: [ns1, 10.0.1.53]"), "switchover", []string{"Resolvers[0]"}},
		"no TSIG key":        {replace("keyFile: dns.key ", "keyFile: nothing.key "), "switchover", []string{"nothing.key"}},
		"no known_hosts":     {replace("knownHosts: [known_hosts]", "knownHosts: [nowhere]"), "switchover", []string{"clusters.dc1.hosts[0]", "nowhere"}},
		"no ssh key":         {replace("keyFiles: [id_ed25519]", "keyFiles: [nothing]"), "switchover", []string{"clusters.dc1.hosts[0]", "nothing"}},
		"unknown jump":       {replace("jump: global-m1", "jump: bastion"), "switchover", []string{`hosts[1].jump: "bastion" is no host before this one`}},
		"host twice":         {replace("name: standby-global-m1, address", "name: global-m1, address"), "switchover", []string{"is the name of another host"}},
		"no CA":              {replace("cacert: dc2/etcd-ca.crt", "cacert: dc2/none.crt"), "switchover", []string{"clusters.dc2.etcd.cacert", "none.crt"}},
		"no kubeconfig":      {replace("kubeconfig: dc2/admin.kubeconfig", "kubeconfig: dc2/none"), "switchover", []string{"clusters.dc2.kubeconfig", "none"}},
		"bad socket":         {replace(`"tcp:10.2.0.10:9999"`, "10.2.0.10"), "switchover", []string{"clusters.dc2.haproxy[0].socket"}},
		"half a mirror":      {replace("      stop: [systemctl, stop, understudy-mirror]\n", ""), "switchover", []string{"clusters.dc1.mirror: lacks start, stop or running"}},
		"no report":          {replace("differenceReport: failback-differences.jsonl\n", ""), "failback", []string{"Differences is empty"}},
		"no rules":           {replace("mirror: {name: global}", "mirror: {name: global, rules: rules.yaml}"), "switchover", []string{"mirror.rules", "rules.yaml"}},
		"a second document":  {func(text string) string { return text + "---\n{}\n" }, "switchover", []string{"a second YAML document"}},
		"a number":           {replace("domain: platform.example.com", "domain: 7"), "switchover", []string{"domain: is a number where a text belongs"}},
		"lost nobody knows":  {replace("lost: [m1, m2]", "lost: [m1, m9]"), "stretch-restore", []string{`stretch.lost[1]: "m9" is no member`}},
		"two endpoints":      {replace(`["http://10.3.0.1:2379"]`, `["http://10.3.0.1:2379", "http://10.3.0.2:2379"]`), "stretch-restore", []string{"stretch.members[0].etcd.endpoints: has 2 addresses"}},
		"nothing was saved":  {replace("saved: gluster.json", "saved: none.json"), "stretch-failback", []string{"none.json"}},
		"no command's check": {replace("  check: [test, -e, /var/lib/understudy/asm-template-checked]\n", ""), "switchover", []string{"before[0]: lacks name, action, check or do"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := plan(t, folder(t, tc.edit), tc.runbook)
			if err == nil {
				t.Fatalf("no error, but a plan of %d steps", len(p.Document().Steps))
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("a secret is shown: %v", err)
			}
		})
	}
}

// The page that maps the procedures to steps names each step of the plans.
func TestThePageNamesEveryStep(t *testing.T) {
	page, err := os.ReadFile("../../../docs/RUNBOOKS.md")
	if err != nil {
		t.Fatal(err)
	}
	path := folder(t, nil)
	var missing []string
	for _, runbook := range Runbooks() {
		p, err := plan(t, path, runbook)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range steps(p) {
			// The page leaves the names of clusters, hosts and members open.
			for _, own := range []string{"dc1", "dc2", "lb1", "lb2", "10.2.0.1:6443", "standby-global-m1", "business-1", "m1", "m2", "m3"} {
				name = strings.ReplaceAll(name, "/"+own, "/…")
			}
			if !strings.Contains(string(page), "`"+name+"`") && !slices.Contains(missing, name) {
				missing = append(missing, name)
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("docs/RUNBOOKS.md does not name %s", strings.Join(missing, ", "))
	}
}
