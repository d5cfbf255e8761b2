package nodes

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// invocation is one run of a command. A shell in front of the program says its process ID on the standard error and becomes the program; with sudo a second one does so behind sudo. By these
// marks the program can be ended from another session, and a sudo that refused is told from a program that failed.
type invocation struct {
	argv   []string
	nonce  string
	sudo   bool
	stdout bounded
	stderr bounded
}

func invoke(cmd Command, sudo bool) *invocation {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	in := &invocation{nonce: hex.EncodeToString(random[:]), sudo: sudo}
	in.argv = in.marked("outer")
	if sudo {
		in.argv = append(append(in.argv, "sudo", "-n", "--"), in.marked("inner")...)
	}
	in.argv = append(in.argv, cmd.Args...)
	return in
}

func (in *invocation) marked(where string) []string {
	mark := `echo "understudy-` + in.nonce + "-" + where + ` $$" >&2; `
	if where == "outer" {
		mark += "echo understudy-" + in.nonce + "; "
	}
	return []string{"/bin/sh", "-c", mark + `exec "$@"`, "sh"}
}

// pid is a process ID that was marked; 0 if there is none yet.
func (in *invocation) pid(stderr, where string) int {
	m := regexp.MustCompile("understudy-" + in.nonce + "-" + where + ` (\d{1,9})\n`).FindStringSubmatch(stderr)
	if m == nil {
		return 0
	}
	pid, _ := strconv.Atoi(m[1])
	return pid
}

// killer is the command that sends the program, and its process group, a signal; false if it has not said its ID.
func (in *invocation) killer(signal string) ([]string, bool) {
	stderr, _ := in.stderr.text()
	args := []string{"/bin/sh", "-c", `kill "$@"`, "sh", "-s", signal, "--"} // every shell has a kill, not every machine a program
	if in.sudo {
		args = append([]string{"sudo", "-n", "--"}, args...)
	}
	known := len(args)
	for _, where := range []string{"outer", "inner"} {
		if pid := in.pid(stderr, where); pid > 1 {
			// The group first: behind sudo with a terminal of its own the program has another one. Not everything is a group's leader; kill goes on with the next.
			args = append(args, "-"+strconv.Itoa(pid), strconv.Itoa(pid))
		}
	}
	return args, len(args) > known
}

// result is what is left in the end. started is false if sudo refused.
func (in *invocation) result(exit int) (res Result, started bool) {
	var cutOut, cutErr bool
	res.Stdout, cutOut = in.stdout.text()
	stderr, cutErr := in.stderr.text()
	started = !in.sudo || in.pid(stderr, "inner") > 0
	// What the login shell's own files print comes before the marks.
	if _, after, found := strings.Cut(res.Stdout, "understudy-"+in.nonce+"\n"); found {
		res.Stdout = after
	}
	if i := strings.Index(stderr, "understudy-"+in.nonce); i > 0 {
		stderr = stderr[i:]
	}
	res.Stderr = regexp.MustCompile("understudy-"+in.nonce+`-(outer|inner) \d{1,9}\n`).ReplaceAllString(stderr, "")
	for _, s := range []*string{&res.Stdout, &res.Stderr} {
		if len(*s) > MaxOutput {
			*s, cutOut = (*s)[:MaxOutput], true
		}
	}
	res.Truncated, res.Exit = cutOut || cutErr, exit
	return res, started
}

// refused is the error of a sudo that did not start the program.
func refused(host string, res Result) error {
	detail, _, _ := strings.Cut(strings.TrimSpace(res.Stderr), "\n")
	return &Error{Kind: ErrSudo, Host: host, Detail: NewMasker().Mask(detail), Hint: "allow the user to run commands by sudo without a password (NOPASSWD), or log in as root"}
}

// marks is room for the marks.
const marks = 256

// bounded keeps the first MaxOutput bytes, and marks.
type bounded struct {
	mu   sync.Mutex
	kept []byte
	cut  bool
}

// Write implements io.Writer; it takes everything.
func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(p), MaxOutput+marks-len(b.kept))
	b.kept = append(b.kept, p[:n]...)
	b.cut = b.cut || n < len(p)
	return len(p), nil
}

func (b *bounded) text() (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.kept), b.cut
}
