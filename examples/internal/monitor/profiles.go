package monitor

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"
)

// maxProfile is the longest time that a client may have a profile taken for: meanwhile nobody else gets a CPU profile.
// Nothing else bounds it. The server has no WriteTimeout, and net/http/pprof would extend it by the time asked for.
const maxProfile = 5 * time.Minute

// addProfiles serves what Go's profiler knows on a mux. net/http/pprof also puts itself on http.DefaultServeMux, which this
// program does not serve. Profiles are addresses, names of functions, sizes and counts: no memory is in them. What may show
// more is left out: the command line, and the goroutines' dump with debug=2, which prints the arguments of calls as words.
// block and mutex are left out, too: they are empty unless the program slows itself down for them.
func addProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "/debug/pprof/profile?seconds=30\n/debug/pprof/trace?seconds=1\n/debug/pprof/heap\n/debug/pprof/allocs\n/debug/pprof/goroutine\n/debug/pprof/threadcreate\n")
	})
	mux.HandleFunc("GET /debug/pprof/profile", bounded(pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/trace", bounded(pprof.Trace))
	for _, name := range []string{"heap", "allocs", "goroutine", "threadcreate"} {
		mux.HandleFunc("GET /debug/pprof/"+name, bounded(pprof.Handler(name).ServeHTTP))
	}
}

// bounded refuses what is too long or shows too much. net/http/pprof ends a profile when the request's context ends.
func bounded(profile http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if text := r.FormValue("seconds"); text != "" {
			// Nothing passes that net/http/pprof would silently take for its default.
			if seconds, err := strconv.Atoi(text); err != nil || seconds < 1 || seconds > int(maxProfile.Seconds()) {
				http.Error(w, fmt.Sprintf("seconds is %q; give a whole number from 1 to %v", text, maxProfile.Seconds()), http.StatusBadRequest)
				return
			}
		}
		if text := r.FormValue("debug"); text != "" && text != "0" && text != "1" {
			http.Error(w, fmt.Sprintf("debug is %q; 0 is a profile for go tool pprof, 1 is text; stacks with arguments are not served", text), http.StatusBadRequest)
			return
		}
		profile(w, r)
	}
}
