// Package kubestorage has no code. Its tests write objects through the storage layer of Kubernetes' apiservers into a primary's etcd and read them through a standby's, with a mirror in between:
// what etcds hold is not what users see, and what an apiserver makes of it is.
package kubestorage

import (
	"flag"
	"io"
	"testing"

	"k8s.io/klog/v2"

	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestMain(m *testing.M) {
	// Upstream logs by klog, to the standard error, and much where a test gives it what it cannot read.
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	_ = flags.Parse([]string{"-logtostderr=false", "-stderrthreshold=FATAL"}) // panics
	klog.SetOutput(io.Discard)
	testutil.Main(m)
}
