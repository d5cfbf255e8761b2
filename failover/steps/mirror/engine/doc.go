// Package engine connects the steps of package mirror to this module's own mirror and check: etcdmirror and drcheck.
//
//	pair := engine.Pair(primary, standby, mirrorConfig)
//	verdicts, err := engine.NewVerdicts(primary, standby, checkConfig)
//	running, err := engine.NewInProcess(primary, standby, mirrorConfig)
//	…
//	step, err := mirror.VerdictGate(mirror.VerdictGateConfig{Pair: pair, Verdicts: verdicts})
//	step, err = mirror.Drain(mirror.DrainConfig{Pair: pair, Waiter: running})
//	step, err = mirror.StopMirror(mirror.StopMirrorConfig{Pair: pair, Control: running})
package engine
