// Package daemon runs installed programs in the foreground for tests, which skip where a program is missing. They end with the test.
package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/freeport"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

// Need is the path of a program; without it the test is skipped, and told which package of Debian has it.
func Need(t testing.TB, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed: apt-get install %s", program, pkg)
	}
	return path
}

// HAProxy runs HAProxy and waits until its runtime API listens at socket, a path that the configuration names.
func HAProxy(t testing.TB, socket, config string) *proc.Proc {
	t.Helper()
	binary := Need(t, "haproxy", "haproxy")
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	write(t, file, config)
	p := proc.StartBinary(t, binary, nil, "-db", "-f", file)
	for ctx := testutil.Context(t); ; {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
			return p
		}
		if pause(ctx) != nil || p.Signal(0) != nil {
			t.Fatalf("HAProxy does not run: %s", p.Output())
		}
	}
}

// BIND runs named and waits until it answers, at the address that it returns. zones writes files into a folder, which paths in the configuration count from, and returns what follows the options.
func BIND(t testing.TB, zones func(dir string) string, options string) (address string) {
	t.Helper()
	binary := Need(t, "named", "bind9")
	ports, err := freeport.Reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "named.conf")
	write(t, file, fmt.Sprintf(`options { directory "%s"; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; }; pid-file "named.pid"; session-keyfile "session.key"; dnssec-validation no; empty-zones-enable no; %s };
controls { };
%s`, dir, ports[0], options, zones(dir)))
	p := proc.StartBinary(t, binary, nil, "-g", "-n", "1", "-c", file)
	if err := p.WaitOutput(testutil.Context(t), " running\n"); err != nil {
		t.Fatalf("named: %v: %s", err, p.Output())
	}
	return freeport.Loopback(ports[0])
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(20 * time.Millisecond):
		return nil
	}
}
