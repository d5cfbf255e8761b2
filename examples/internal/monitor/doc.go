// Package monitor serves what a running mirror knows over HTTP: for probes, for people and for Prometheus. It also compares source and target, now and then or when asked.
//
//	/healthz  200 while the process lives
//	/readyz   200 while the mirror follows its source closely, or waits to take over from another instance; else 503 and why
//	/status   all that the mirror knows, and the last comparison, as JSON
//	/check    a comparison of source and target, by package drcheck
//	/metrics  the same as /status for Prometheus
//
// If asked for, /debug/pprof/ has profiles of the program: of the CPU, of memory, of goroutines, and a trace. They hold no content of memory. Heap dumps, the command line and stacks with arguments are not served.
//
// No value of any key is served. Keys are, by /check and, of a mirror that a mass deletion has stopped, by /status: who may connect may read their names.
package monitor
