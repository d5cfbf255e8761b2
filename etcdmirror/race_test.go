//go:build race

package etcdmirror_test

const raceEnabled = true
