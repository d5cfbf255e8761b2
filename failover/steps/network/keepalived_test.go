package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/daemon"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
)

// local runs commands on this machine, after a prefix.
type local struct {
	name   string
	prefix []string
	down   bool
}

func (h *local) Name() string { return h.name }
func (h *local) Run(ctx context.Context, cmd nodes.Command) (res nodes.Result, err error) {
	if h.down {
		return res, errors.New("no route to host")
	}
	args := append(append([]string{}, h.prefix...), cmd.Args...)
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errOut bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(cmd.Stdin), &out, &errOut
	err = c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		err = nil
	}
	return nodes.Result{Stdout: out.String(), Stderr: errOut.String(), Exit: c.ProcessState.ExitCode()}, err
}

const conf = `! Configuration File for keepalived
global_defs {
	router_id lb1
}
vrrp_instance other {
	priority 50
}
vrrp_instance platform
{   # the platform
	interface eth0
	virtual_router_id 51
	track_script { priority 7 }
	priority 100# was 90
	authentication {
		auth_type PASS
		auth_pass "s3cr{t"
	}
}
`

func TestPriorityOfTheFile(t *testing.T) {
	dir := t.TempDir()
	file, link, loaded := filepath.Join(dir, "real.conf"), filepath.Join(dir, "keepalived.conf"), filepath.Join(dir, "loaded")
	if err := os.WriteFile(file, []byte(conf), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real.conf", link); err != nil {
		t.Fatal(err)
	}
	world := func() string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		read, _ := os.ReadFile(loaded)
		if len(read) > 0 && !bytes.Equal(read, text) {
			t.Error("what was loaded is not what is in the file")
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".keepalived") {
				t.Errorf("%s was left behind", e.Name())
			}
		}
		return fmt.Sprintf("%v\n%s", info.Mode(), text)
	}
	cfg := PriorityConfig{Host: &local{name: "lb1"}, File: link, Instance: "platform", Priority: 150, Reload: []string{"cp", file, loaded}}
	steprun.Contract(t, func() failover.Step { return must(t)(Priority(cfg)) }, world, "s3cr")

	step := must(t)(Priority(cfg))
	if err := steprun.New(t).Run(step); err != nil {
		t.Fatal(err)
	}
	if got, want := world(), "-rw-r-----\n"+strings.Replace(conf, "priority 100#", "priority 150#", 1); got != want {
		t.Errorf("the file is\n%s\nwant\n%s", got, want)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v", err)
	}

	// It cannot be read by keepalived: the step has failed, Observe does not take the file's word for it, and undoing puts the file back.
	cfg.Priority, cfg.Reload = 99, []string{"false"}
	lab := steprun.New(t)
	if err := lab.Run(must(t)(Priority(cfg))); !errors.Is(err, failover.ErrStepFailed) || !strings.Contains(err.Error(), "false ended with status 1") {
		t.Errorf("got %v", err)
	}
	cfg.Reload = []string{"true"}
	lab2 := steprun.New(t)
	lab2.Journal = lab.Journal
	err := lab2.Undo(must(t)(Priority(cfg))) // another plan: the reload differs
	if !errors.Is(err, failover.ErrPlanChanged) {
		t.Errorf("got %v, want ErrPlanChanged", err)
	}
}

// Somebody edits the file while the step does: theirs is not overwritten.
func TestPriorityNoticesAnotherEditor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keepalived.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &priority{PriorityConfig{Host: &local{name: "lb1"}, File: file, Timeout: time.Minute}}
	theirs := conf + "# theirs\n"
	if err := os.WriteFile(file, []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.write(t.Context(), []byte(conf), []byte("x")); err == nil || !strings.Contains(err.Error(), "has changed since it was read") {
		t.Errorf("got %v", err)
	}
	if now, _ := os.ReadFile(file); string(now) != theirs {
		t.Error("the other's change is lost")
	}
}

func TestPriorityBlocked(t *testing.T) {
	inst := func(body string) string { return "vrrp_instance platform {\n" + body + "\n}\n" }
	for text, want := range map[string]string{
		"": "there is no vrrp_instance platform", inst(""): "no line priority", inst("priority 1\npriority 2"): "2 lines priority", inst("priority"): "has no number",
		inst("@lb1 priority 5\npriority 3"): "under the condition @lb1", inst("priority $P"): "no number from 1 to 255", inst("include x.conf\npriority 3"): "includes files",
		inst("priority 3") + inst("priority 3"): "there are 2", "}": "closes nothing", "vrrp_instance platform {": "not closed", inst(`auth_pass "x`): "quote",
		"# vrrp_instance platform {\n# priority 3\n#}": "there is no", inst("priority 256"): "no number",
	} {
		file := filepath.Join(t.TempDir(), "keepalived.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		look(t, must(t)(Priority(PriorityConfig{Host: &local{name: "lb1"}, File: file, Instance: "platform", Priority: 9})), failover.Blocked, want)
	}
	for field, cfg := range map[string]PriorityConfig{
		"Host": {}, "Instance": {Host: &local{}, Instance: "a b"}, "Priority is 0": {Host: &local{}, Instance: "a"}, "Priority is 255": {Host: &local{}, Instance: "a", Priority: 255},
		"File": {Host: &local{}, Instance: "a", Priority: 1, File: "x"}, "Reload": {Host: &local{}, Instance: "a", Priority: 1, Reload: []string{}},
		"VIP.Address": {Host: &local{}, Instance: "a", Priority: 1, VIP: VIP{Address: "x"}}, "VIP.Holder": {Host: &local{}, Instance: "a", Priority: 1, VIP: VIP{Address: "10.0.0.1"}},
	} {
		_, err := Priority(cfg)
		wantConfig(t, err, field)
	}
}

// FuzzPriority: whatever the file holds, either it is refused or the number alone changes, and changes back.
func FuzzPriority(f *testing.F) {
	f.Add(conf, uint8(7))
	f.Add("vrrp_instance platform {priority 1}", uint8(200))
	f.Fuzz(func(t *testing.T, text string, n uint8) {
		was, err := readPriority([]byte(text), "platform")
		if err != nil {
			return
		}
		to := max(1, int(n))
		next, err := writePriority([]byte(text), "platform", to)
		if err != nil {
			t.Fatal(err)
		}
		if now, err := readPriority(next, "platform"); err != nil || now != to {
			t.Fatalf("wrote %d, read %d, %v", to, now, err)
		}
		at, _ := findPriority([]byte(text), "platform")
		if string(next[:at.from]) != text[:at.from] || !strings.HasSuffix(string(next), text[at.to:]) {
			t.Fatal("more than the number changed")
		}
		if now, err := readPriority(next, "platform"); err != nil || now != to || was < 1 {
			t.Fatal(now, was, err)
		}
	})
}

// Two real keepalived in network namespaces of their own: the priority moves the virtual IP, and undoing moves it back.
func TestKeepalivedMovesTheVirtualIP(t *testing.T) {
	binary := daemon.Need(t, "keepalived", "keepalived")
	ip := daemon.Need(t, "ip", "iproute2")
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	run := func(args ...string) error {
		if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
		return nil
	}
	tag := fmt.Sprintf("%x", rand.Uint32()&0xffffff)
	a, b := "ka"+tag, "kb"+tag
	for _, ns := range []string{a, b} {
		if err := run("netns", "add", ns); err != nil {
			t.Skipf("no network namespaces here: %v", err)
		}
		t.Cleanup(func() { _ = run("netns", "del", ns) })
	}
	for _, args := range [][]string{
		{"link", "add", "v" + a, "netns", a, "type", "veth", "peer", "name", "v" + b, "netns", b},
		{"-n", a, "link", "set", "v" + a, "up"}, {"-n", b, "link", "set", "v" + b, "up"}, {"-n", a, "link", "set", "lo", "up"}, {"-n", b, "link", "set", "lo", "up"},
		{"-n", a, "addr", "add", "10.9.0.1/24", "dev", "v" + a}, {"-n", b, "addr", "add", "10.9.0.2/24", "dev", "v" + b},
	} {
		if err := run(args...); err != nil {
			t.Skipf("no virtual links here: %v", err)
		}
	}
	dir := t.TempDir()
	hosts, files, pids := map[string]*local{}, map[string]string{}, map[string]string{}
	for ns, prio := range map[string]int{a: 100, b: 90} {
		hosts[ns] = &local{name: ns, prefix: []string{ip, "netns", "exec", ns}}
		files[ns], pids[ns] = filepath.Join(dir, ns+".conf"), filepath.Join(dir, ns+".pid")
		text := fmt.Sprintf("vrrp_instance platform {\n  state BACKUP\n  interface v%s\n  virtual_router_id 51\n  priority %d\n  advert_int 0.1\n  version 3\n  virtual_ipaddress {\n    10.9.0.100/24\n  }\n}\n", ns, prio)
		if err := os.WriteFile(files[ns], []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		p := proc.StartBinary(t, ip, nil, "netns", "exec", ns, binary, "-n", "-l", "-P", "-f", files[ns], "-p", pids[ns], "-r", filepath.Join(dir, ns+".vrrp"))
		t.Cleanup(func() { // by a signal that its children hear of, too
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			_ = p.Signal(syscall.SIGTERM)
			_ = p.Wait(ctx)
		})
	}
	onA := VIP{Address: "10.9.0.100", Holder: hosts[a], Others: []nodes.Host{hosts[b]}}
	onA.complete(new(configErrors))
	if err := onA.wait(testutil.Context(t)); err != nil {
		t.Fatal(err)
	}
	vip := VIP{Address: "10.9.0.100", Holder: hosts[b], Others: []nodes.Host{hosts[a]}}
	step := must(t)(Priority(PriorityConfig{Host: hosts[b], File: files[b], Instance: "platform", Priority: 110, VIP: vip, Reload: []string{"sh", "-c", "kill -HUP $(cat " + pids[b] + ")"}}))
	lab := steprun.New(t)
	if err := lab.Run(step); err != nil {
		t.Fatal(err)
	}
	look(t, must(t)(VIPHeld(VIPConfig{VIP: vip})), failover.Done, "10.9.0.100 is on "+b)
	look(t, must(t)(VIPHeld(VIPConfig{VIP: onA})), failover.Blocked, "10.9.0.100 is on "+b)
	if err := lab.Undo(step); err != nil {
		t.Fatal(err)
	}
	if err := onA.wait(testutil.Context(t)); err != nil {
		t.Error(err)
	}
}

func TestVIP(t *testing.T) {
	script := func(name, out string) *local {
		return &local{name: name, prefix: []string{"sh", "-c", "printf '%s\n' '" + out + "' #"}}
	}
	has, hasNot := "2: eth0    inet 10.0.0.1/24 brd 10.0.0.255 scope global eth0", "2: eth0    inet 10.0.0.10/24 brd 10.0.0.1 scope global eth0"
	gate := func(v VIP) failover.Step { return must(t)(VIPHeld(VIPConfig{VIP: v})) }
	look(t, gate(VIP{Address: "10.0.0.1", Holder: script("a", has), Others: []nodes.Host{script("b", hasNot)}}), failover.Done, "is on a")
	look(t, gate(VIP{Address: "10.0.0.1", Holder: script("a", has), Others: []nodes.Host{script("b", has)}}), failover.Blocked, "on several machines: a, b")
	look(t, gate(VIP{Address: "10.0.0.1", Holder: script("a", hasNot), Others: []nodes.Host{script("b", hasNot)}}), failover.Blocked, "on none")
	six := "2: eth0    inet6 2001:db8::1/64 scope global"
	look(t, gate(VIP{Address: "2001:db8:0::1", Holder: script("a", six)}), failover.Done, "2001:db8::1 is on a")
	dead := VIP{Address: "10.0.0.1", Holder: script("a", has), Others: []nodes.Host{&local{name: "b", down: true}}}
	if _, err := gate(dead).Observe(t.Context()); err == nil {
		t.Error("a machine that cannot be asked is no error")
	}
	dead.AllowUnreachable = true
	look(t, gate(dead), failover.Done, "is on a; b cannot be asked")
}
