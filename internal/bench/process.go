package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one role at work.
type process struct {
	role    string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	stdout  *lineBuffer
	stderr  *tailBuffer
	started time.Time

	ended chan struct{} // closed when the process is gone and its output read
	err   error         // how it ended
}

// startProcess runs this binary in a role. The caller stops it.
func startProcess(role string, flags roleFlags) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{role: role, cmd: exec.Command(self, flags.args(role)...), stdout: &lineBuffer{lines: make(chan string, 1024)}, stderr: &tailBuffer{}, ended: make(chan struct{})}
	// Settings of the caller's environment must not reach etcdctl or etcd.
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ETCD") {
			p.cmd.Env = append(p.cmd.Env, v)
		}
	}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// line returns the next line that the process prints.
func (p *process) line(ctx context.Context) (string, error) {
	select {
	case line := <-p.stdout.lines:
		return line, nil
	case <-p.ended:
		return "", p.failure()
	case <-ctx.Done():
		return "", fmt.Errorf("%s: waiting for its answer: %w", p.role, context.Cause(ctx))
	}
}

// ready waits until the process says that it is.
func (p *process) ready(ctx context.Context) error {
	line, err := p.line(ctx)
	if err == nil && line != readyLine {
		err = fmt.Errorf("%s: printed %q instead of %q", p.role, line, readyLine)
	}
	return err
}

// order sends the process a line.
func (p *process) order(line string) error {
	_, err := io.WriteString(p.stdin, line+"\n")
	return err
}

// errEnded: a process has ended by itself that should have lived.
var errEnded = errors.New("ended early")

// failure says how a process has ended that should have lived.
func (p *process) failure() error {
	how := "status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s %w (%s): %s", p.role, errEnded, how, p.stderr)
}

// stop kills the process, waits until it is gone, and returns the CPU time that it used.
func (p *process) stop() time.Duration {
	_ = p.cmd.Process.Kill() // fails only if it has ended
	<-p.ended
	state := p.cmd.ProcessState
	return state.UserTime() + state.SystemTime()
}

// peakRSS is the most memory that the living process has held, in bytes. It is not taken from rusage:
// there, a child starts with the peak of the process that started it.
func (p *process) peakRSS() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status: no VmHWM", p.cmd.Process.Pid)
}

// userHertz is the unit of the times in /proc on every Linux platform of Go.
const userHertz = 100

// cpuTime is what the living process has used so far.
func (p *process) cpuTime() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses and may hold anything; utime and stime are fields 14 and 15.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return ticks(fields, 11, 12)
}

// machineCPUTime is what all processes have used since the machine started, and what a hypervisor gave to other machines while there was work here.
func machineCPUTime() (used, stolen time.Duration, err error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	first, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(first)
	if used, err = ticks(fields, 1, 2, 3, 6, 7); err != nil { // user, nice, system, irq, softirq
		return 0, 0, err
	}
	stolen, err = ticks(fields, 8)
	return used, stolen, err
}

func ticks(fields []string, indexes ...int) (sum time.Duration, err error) {
	for _, i := range indexes {
		if i >= len(fields) {
			return 0, errors.New("/proc: a CPU time is missing")
		}
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc: CPU time: %w", err)
		}
		sum += time.Duration(n) * time.Second / userHertz
	}
	return sum, nil
}

// onTmpfs reports whether a directory lives in memory, where fsync costs nothing.
func onTmpfs(dir string) (bool, error) {
	const tmpfsMagic = 0x01021994
	var fs syscall.Statfs_t
	err := syscall.Statfs(dir, &fs)
	return fs.Type == tmpfsMagic, err
}

// hardware is the kernel's release and the model of the CPUs; "unknown" where the machine does not tell.
func hardware() (kernel, cpu string) {
	kernel, cpu = "unknown", "unknown"
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = strings.TrimSpace(string(release))
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return kernel, strings.TrimSpace(value)
			}
		}
	}
	return kernel, cpu
}

// lineBuffer hands out what is written to it by lines. Lines that nobody has asked for after a thousand are dropped.
type lineBuffer struct {
	lines chan string
	rest  []byte
}

func (b *lineBuffer) Write(p []byte) (int, error) {
	b.rest = append(b.rest, p...)
	for {
		line, rest, found := bytes.Cut(b.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		b.rest = rest
		select {
		case b.lines <- string(line):
		default:
		}
	}
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu   sync.Mutex
	tail []byte
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	const most = 4 << 10
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tail = append(b.tail, p...)
	if over := len(b.tail) - most; over > 0 {
		b.tail = append([]byte(nil), b.tail[over:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.TrimSpace(string(b.tail))
}
