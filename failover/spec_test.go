package failover_test

import (
	"errors"

	"github.com/understudy-dr/understudy/failover"
)

func specPlan(string, *bomb, witness) (failover.PlanConfig, error) { return failover.PlanConfig{}, errors.New("none") }
func childHash() int { return 1 }
