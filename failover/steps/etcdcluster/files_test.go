package etcdcluster

import (
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

const packaged = `# [Member Flags]
ETCD_NAME=m1.example.com
#ETCD_INITIAL_CLUSTER=commented
ETCD_DATA_DIR="/var/lib/etcd/"
ETCD_INITIAL_CLUSTER="m1.example.com=https://192.0.2.1:2380,\
m2=https://192.0.2.2:2380"
  ETCD_INITIAL_CLUSTER_STATE = 'new'

; the end
ETCD_DEBUG="False"`

func TestEnvironmentFileIsEditedInPlace(t *testing.T) {
	s, err := envSettings(packaged)
	want := Settings{Name: "m1.example.com", InitialCluster: "m1.example.com=https://192.0.2.1:2380,m2=https://192.0.2.2:2380", InitialClusterState: "new"}
	if err != nil || s != want {
		t.Fatalf("read %+v, %v", s, err)
	}
	if same, err := editEnv(packaged, s); err != nil || same != packaged {
		t.Errorf("without a change: %v\n%s", err, same)
	}
	s.ForceNewCluster = true
	forced, err := editEnv(packaged, s)
	if err != nil || forced != packaged+"\nETCD_FORCE_NEW_CLUSTER=true\n" {
		t.Errorf("%v\n%s", err, forced)
	}
	s.ForceNewCluster = false
	if back, err := editEnv(forced, s); err != nil || back != packaged+"\n" {
		t.Errorf("%v\n%s", err, back)
	}
	s.InitialCluster, s.InitialClusterState = "a=http://192.0.2.3:2380", "existing"
	edited, err := editEnv(packaged, s)
	if err != nil || !strings.Contains(edited, "/\"\nETCD_INITIAL_CLUSTER=a=http://192.0.2.3:2380\nETCD_INITIAL_CLUSTER_STATE=existing\n\n; the end\n") {
		t.Errorf("%v\n%s", err, edited)
	}
	for _, unsafe := range []string{"ETCD_NAME='x", "export ETCD_NAME=x\n", "# c \\\nETCD_NAME=x\n", "ETCD_DEBUG=x\\", "ETCD_FORCE_NEW_CLUSTER=perhaps\n"} {
		if got, err := editEnv(unsafe, Settings{Name: "y"}); err == nil {
			t.Errorf("%q was edited to %q", unsafe, got)
		}
	}
	if _, err := editEnv("", Settings{Name: "a b"}); err == nil {
		t.Error("a value that needs quotes was written")
	}
}

// FuzzEditEnv: what is edited reads back as set, editing again changes nothing, and all that is not ours stays, byte for byte.
func FuzzEditEnv(f *testing.F) {
	for _, seed := range []string{packaged, "", "A=b", "ETCD_NAME=x\nETCD_NAME=y\n", "A='b\nc'\n\\", "#\\\nA=1", "A=\"\\", "A=b\\\n c\r\nB=", " = \n\n=x"} {
		f.Add(seed, "n", true)
	}
	f.Fuzz(func(t *testing.T, text, name string, force bool) {
		if name == "" {
			return
		}
		want := Settings{Name: name, InitialClusterState: "existing", ForceNewCluster: force}
		edited, err := editEnv(text, want)
		if err != nil {
			return
		}
		if got, err := envSettings(edited); err != nil || got != want {
			t.Fatalf("%+v was read back as %+v, %v", want, got, err)
		}
		if again, err := editEnv(edited, want); err != nil || again != edited {
			t.Fatalf("edited again: %q, %v", again, err)
		}
		if a, b := others(t, text), others(t, edited); a != b && a+"\n" != b {
			t.Fatalf("the rest was %q and is %q", a, b)
		}
	})
}

// others is a file without the assignments of settings.
func others(t *testing.T, text string) string {
	all, err := parseEnv(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(all) - 1; i >= 0; i-- {
		for _, s := range allSettings {
			if all[i].key == envKey(s) {
				text = text[:all[i].start] + text[all[i].end:]
			}
		}
	}
	return text
}

// A shell reads simple files as systemd does: it is the oracle for quotes and continued lines.
func TestEnvironmentFilesReadAsAShellReadsThem(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	pieces := []string{"a", "b=c", "\"x y\"", "'q #'", "\\\n", ":", "\"\\\"\"", "\\'", "/"}
	for i := range 60 {
		var b strings.Builder
		b.WriteString("# a comment\n\nOTHER=1\nETCD_NAME=")
		quoted := r.IntN(2) == 0 // systemd joins quoted parts, or takes an unquoted value as it is
		for range 1 + r.IntN(4) {
			p := pieces[r.IntN(len(pieces))]
			if isQuoted := p[0] == '"' || p[0] == '\''; isQuoted == quoted {
				b.WriteString(p)
			}
		}
		b.WriteString("\nLAST=1\n")
		out, err := exec.Command("sh", "-c", b.String()+"printf %s \"$ETCD_NAME\"").Output()
		if err != nil {
			t.Fatalf("seed %d, file %d: %v", seed, i, err)
		}
		if got, err := envSettings(b.String()); err != nil || got.Name != string(out) {
			t.Fatalf("seed %d, file %d: %q reads as %q, %v; the shell reads %q", seed, i, b.String(), got.Name, err, out)
		}
	}
}

const kubeadm = `apiVersion: v1
kind: Pod
metadata:
  name: etcd
spec:
  containers:
  - command:
    - etcd
    - --data-dir=/var/lib/etcd
    - --initial-cluster=cp1=https://192.0.2.1:2380   # as made
    - "--name=cp1"
    - --initial-advertise-peer-urls=https://192.0.2.1:2380
    image: registry.k8s.io/etcd:3.5.15-0
    name: etcd
`

func TestManifestIsEditedInPlace(t *testing.T) {
	plain := strings.Replace(kubeadm, "   # as made", "", 1)
	s, err := manifestSettings(plain)
	want := Settings{Name: "cp1", InitialCluster: "cp1=https://192.0.2.1:2380"}
	if err != nil || s != want {
		t.Fatalf("read %+v, %v", s, err)
	}
	if same, err := editManifest(plain, s); err != nil || same != plain {
		t.Errorf("without a change: %v\n%s", err, same)
	}
	s.ForceNewCluster = true
	forced, err := editManifest(plain, s)
	if err != nil || forced != strings.Replace(plain, "    - \"--name=cp1\"\n", "    - \"--name=cp1\"\n    - --force-new-cluster=true\n", 1) {
		t.Errorf("%v\n%s", err, forced)
	}
	s.ForceNewCluster = false
	if back, err := editManifest(forced, s); err != nil || back != plain {
		t.Errorf("%v\n%s", err, back)
	}
	s.Name, s.InitialCluster, s.InitialClusterState = "cp9", "cp9=https://192.0.2.9:2380", "existing"
	if edited, err := editManifest(plain, s); err != nil || !strings.Contains(edited, "    - --initial-cluster=cp9=https://192.0.2.9:2380\n    - \"--name=cp9\"\n    - --initial-cluster-state=existing\n") {
		t.Errorf("%v\n%s", err, edited)
	}
	for name, unsafe := range map[string]string{
		"a comment on the line":  kubeadm,
		"a script":               strings.Replace(plain, "- etcd\n", "- sh\n", 1),
		"flags in a row":         "spec: {containers: [{name: etcd, command: [etcd, --name=cp1]}]}\n",
		"a value of its own":     strings.Replace(plain, "\"--name=cp1\"", "--name\n    - cp1", 1),
		"a second document":      plain + "---\n" + plain,
		"another list's flag":    plain + "  - name: other\n    args:\n    - --initial-cluster=x\n",
		"two containers of etcd": plain + "  - name: other\n    command:\n    - etcd\n",
		"no YAML":                "\t:",
	} {
		if got, err := editManifest(unsafe, s); err == nil {
			t.Errorf("%s was edited:\n%s", name, got)
		}
	}
}

// FuzzEditManifest: whatever the text, an edit reads back as set and is stable.
func FuzzEditManifest(f *testing.F) {
	f.Add(kubeadm, true)
	f.Add(strings.Replace(kubeadm, "   # as made", "", 1), false)
	f.Fuzz(func(t *testing.T, text string, force bool) {
		want := Settings{Name: "n", ForceNewCluster: force}
		edited, err := editManifest(text, want)
		if err != nil {
			return
		}
		if got, err := manifestSettings(edited); err != nil || got != want {
			t.Fatalf("%+v was read back as %+v, %v", want, got, err)
		}
		if again, err := editManifest(edited, want); err != nil || again != edited {
			t.Fatalf("edited again: %q, %v", again, err)
		}
	})
}
