package testutil

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/goleak"
)

// leakGrace is how long goroutines may take to end after the last test. The connections between the members of a stopped
// cluster live until their read timeout of 5 seconds; goleak alone waits for less.
const leakGrace = 15 * time.Second

// Main runs the tests of a package, a *testing.M, and fails when goroutines are left over. Call it from TestMain; it does not return.
func Main(m interface{ Run() int }, opts ...goleak.Option) {
	code := m.Run()
	if code == 0 {
		if err := waitNoLeaks(leakGrace, opts...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// waitNoLeaks looks again until no goroutine is left or the time is over.
func waitNoLeaks(grace time.Duration, opts ...goleak.Option) error {
	for deadline := time.Now().Add(grace); ; {
		err := goleak.Find(opts...)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
