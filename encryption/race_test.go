//go:build race

package encryption_test

// raceDetector makes everything several times as slow.
const raceDetector = true
