package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/internal/testutil/faultproxy"
)

// bytesLine asks the proxy for what has passed.
const bytesLine = "bytes"

// crossed is what has passed a proxy, in bytes of TCP payload.
type crossed struct {
	Up   int64 `json:"up"`   // to the source
	Down int64 `json:"down"` // from it
}

// wireFigures are the bytes between the source and the mirror.
type wireFigures struct {
	Received int64 `json:"received"`
	Sent     int64 `json:"sent"`
	// Kept are the keys and values that had to cross.
	Kept int64 `json:"kept"`
}

// playProxy delays what passes between a mirror and the source, and prints its endpoint.
func playProxy(f roleFlags, orders <-chan string) error {
	g, err := faultproxy.Start(faultproxy.Options{Targets: []string{f.source}})
	if err != nil {
		return err
	}
	if f.delay > 0 {
		if err := g.Apply(faultproxy.Fault{Kind: faultproxy.Delay, Latency: f.delay}); err != nil {
			return err
		}
	}
	p := g.Proxy(0)
	fmt.Println(p.Endpoint())
	for order := range orders {
		if order != bytesLine {
			return fmt.Errorf("order %q is unknown", order)
		}
		var c crossed
		c.Up, c.Down = p.Arrived()
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return errors.New("no orders")
}

// wire is a proxy at work. A nil one is none.
type wire struct{ process *process }

func (w *wire) processes() []*process {
	if w == nil {
		return nil
	}
	return []*process{w.process}
}

// bytes asks for what has passed so far.
func (w *wire) bytes(ctx context.Context) (c crossed, err error) {
	if w == nil {
		return c, nil
	}
	if err := w.process.order(bytesLine); err != nil {
		return c, w.process.failure()
	}
	line, err := w.process.line(ctx)
	if err == nil {
		err = json.Unmarshal([]byte(line), &c)
	}
	return c, err
}

// since is what has passed since before; kept bytes had to.
func (w *wire) since(ctx context.Context, before crossed, kept int64) (*wireFigures, error) {
	if w == nil {
		return nil, nil
	}
	now, err := w.bytes(ctx)
	return &wireFigures{Received: now.Down - before.Down, Sent: now.Up - before.Up, Kept: kept}, err
}
