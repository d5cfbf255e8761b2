package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/mirrorflags"
)

const (
	demoRepairDelay = 200 * time.Millisecond
	demoVictim      = "/registry/secrets/team-a/demo-together"
	demoOwn         = "/registry/configmaps/team-a/made-by-the-standby"
)

// interfere deletes a mirrored key at the standby, as its garbage collector might, and makes a key there that the primary never had.
func (d *demo) interfere(ctx context.Context) error {
	before, err := read(ctx, d.target, "")
	if err != nil {
		return err
	}
	value := before.entries[demoVictim].value
	if len(value) == 0 {
		return fmt.Errorf("%s is not at the standby", demoVictim)
	}
	began := time.Now()
	request, cancel := context.WithTimeout(ctx, demoRequest)
	defer cancel()
	done, err := d.target.Txn(request).Then(clientv3.OpDelete(demoVictim), clientv3.OpPut(demoOwn, string(value))).Commit()
	if err != nil {
		return err
	}
	d.say("it deletes %s", demoVictim)
	d.say("and makes %s", demoOwn)
	waiting, cancel := context.WithTimeoutCause(ctx, demoWait, fmt.Errorf("the mirror has not put %s back after %v", demoVictim, demoWait))
	defer cancel()
	for repaired := false; !repaired; {
		select {
		case info := <-d.drifts:
			repaired = info.Key == demoVictim && info.Kind == etcdmirror.DriftRepaired
		case <-waiting.Done():
			return context.Cause(waiting)
		}
	}
	took := time.Since(began)
	after, err := read(ctx, d.target, "")
	if err != nil {
		return err
	}
	switch {
	case !bytes.Equal(after.entries[demoVictim].value, value):
		return fmt.Errorf("%s came back with another value", demoVictim)
	case after.entries[demoOwn].mod != done.Header.Revision:
		return fmt.Errorf("%s was not left alone", demoOwn)
	}
	if err := d.noted(ctx); err != nil {
		return err
	}
	d.say("%s later the deleted key is back with its value; the new one stays, and is known as the standby's own", duration(took))
	return nil
}

// noted waits until the metadata lists the standby's own key, so that it is known to every later mirror, and no drift.
func (d *demo) noted(ctx context.Context) error {
	for began := time.Now(); ; {
		md, err := etcdmirror.ReadMetadata(ctx, d.target, mirrorflags.DefaultName)
		if err != nil {
			return err
		}
		if slices.Equal(md.Foreign, []string{demoOwn}) && len(md.Drift) == 0 {
			return nil
		}
		if time.Since(began) > demoWait {
			return fmt.Errorf("the metadata lists %q as the standby's own and %d drifted keys after %v", md.Foreign, len(md.Drift), demoWait)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
