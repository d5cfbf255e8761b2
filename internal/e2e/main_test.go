// Package e2e_test mirrors one real Kubernetes control plane into another and switches the roles, and looks at both through their API servers, as users, informers and controllers do.
//
// It needs etcd, kube-apiserver and kube-controller-manager in the folder that KUBEBUILDER_ASSETS names, by the convention of envtest, and HAProxy for the switches of roles:
//
//	KUBEBUILDER_ASSETS=$(setup-envtest use -p path) go test -timeout 30m -v ./internal/e2e/
package e2e_test

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // what client-go says about connections that are cut is expected here
	testutil.Main(m)
}

// limit bounds a test that hangs. It decides nothing.
const limit = 12 * time.Minute

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// until waits for something that comes about by itself. done says what is missing, "" for nothing.
func until(ctx context.Context, t *testing.T, what string, done func() (missing string)) {
	t.Helper()
	for {
		missing := done()
		if missing == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %s (%v)", what, missing, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// logger shows what the mirrors say if UNDERSTUDY_E2E_LOG is set.
func logger() *slog.Logger {
	if os.Getenv("UNDERSTUDY_E2E_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
