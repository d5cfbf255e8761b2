package mirrorflags

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
)

// Sides are the settings of both etcds.
type Sides struct{ Source, Target *connect.Side }

// NewSides defines the settings.
func NewSides(settings *connect.Settings) Sides {
	return Sides{connect.NewSide(settings, "source"), connect.NewSide(settings, "target")}
}

// Check checks every setting without contacting anything.
func (s Sides) Check() error {
	errs := []error{s.Source.Check(), s.Target.Check()}
	if address := connect.Shared(s.Source, s.Target); address != "" {
		errs = append(errs, fmt.Errorf("%s, %s: %w", s.Source.Where("endpoints"), s.Target.Where("endpoints"), &etcdmirror.Error{Kind: etcdmirror.ErrSameCluster,
			Detail: "both list " + address, Hint: "give the addresses of two clusters"}))
	}
	return errors.Join(errs...)
}

// Dial connects to both sides at once, so that both have failed when the longer dial timeout is over. What works but should be changed is logged.
func (s Sides) Dial(ctx context.Context, log *slog.Logger) (source, target *connect.Conn, err error) {
	s.Source.Logger, s.Target.Logger = log, log
	var sourceErr, targetErr error
	var wg sync.WaitGroup
	wg.Go(func() { source, sourceErr = s.Source.Dial(ctx) })
	wg.Go(func() { target, targetErr = s.Target.Dial(ctx) })
	wg.Wait()
	if err := errors.Join(sourceErr, targetErr); err != nil {
		for _, conn := range []*connect.Conn{source, target} {
			if conn != nil {
				conn.Close()
			}
		}
		return nil, nil, err
	}
	for _, warnings := range [][]string{s.Source.Warnings(), s.Target.Warnings(), source.Warnings, target.Warnings} {
		for _, warning := range warnings {
			log.Warn(warning)
		}
	}
	return source, target, nil
}
