package failover_test

import (
	"testing"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestMain(m *testing.M) {
	proc.RunChild(map[string]func() int{"runner": childRunner, "hash": childHash})
	testutil.Main(m)
}
