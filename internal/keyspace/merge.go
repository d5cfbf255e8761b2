package keyspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/understudy-dr/understudy/internal/kvstream"
)

// Merge calls found for each key of either side, in the order they share: with both records, or nil for the side that lacks it. Metadata at the target is passed over.
func (s *Space) Merge(ctx context.Context, sources, targets *kvstream.Keys, found func(source, target *mvccpb.KeyValue)) error {
	var source, target *mvccpb.KeyValue
	nextSource := func() (err error) {
		if source, err = sources.Next(ctx); err != nil {
			return fmt.Errorf("source: listing keys: %w", err)
		}
		return nil
	}
	nextTarget := func() (err error) {
		for {
			if target, err = targets.Next(ctx); err != nil {
				return fmt.Errorf("target: listing keys: %w", err)
			}
			if target == nil || !IsMetadata(string(target.Key)) {
				return nil
			}
		}
	}
	if err := errors.Join(nextSource(), nextTarget()); err != nil {
		return err
	}
	for source != nil || target != nil {
		side := s.Compare(source, target)
		switch {
		case side < 0:
			found(source, nil)
		case side > 0:
			found(nil, target)
		default:
			found(source, target)
		}
		if side <= 0 {
			if err := nextSource(); err != nil {
				return err
			}
		}
		if side >= 0 {
			if err := nextTarget(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Compare says which of the two comes first in the order they share; a side at its end comes last.
func (s *Space) Compare(source, target *mvccpb.KeyValue) int {
	switch {
	case target == nil:
		return -1
	case source == nil:
		return 1
	}
	return bytes.Compare(source.Key[len(s.Source):], target.Key[len(s.Target):])
}
