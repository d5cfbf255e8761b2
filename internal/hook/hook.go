// Package hook calls the funcs of hooks: structs of funcs, of which nil ones are skipped.
package hook

// Join calls one func of several hooks in turn; it is nil if none has it.
func Join[H, T any](all []H, pick func(H) func(T)) func(T) {
	var funcs []func(T)
	for _, h := range all {
		if f := pick(h); f != nil {
			funcs = append(funcs, f)
		}
	}
	if len(funcs) == 0 {
		return nil
	}
	return func(info T) {
		for _, f := range funcs {
			f(info)
		}
	}
}

// Call calls f unless it is nil.
func Call[T any](f func(T), info T) {
	if f != nil {
		f(info)
	}
}
