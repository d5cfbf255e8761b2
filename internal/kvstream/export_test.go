package kvstream

// What the tests need of the inside.
var (
	Dense     = dense
	KeyValues = keyValues
)

const (
	Sparse     = sparse
	FirstSpan  = firstSpan
	MaxPage    = maxPage
	MaxSpan    = maxSpan
	SpansAhead = spansAhead
	PageBytes  = pageBytes
)

// ForcePages makes a reader take the server for one before etcd 3.7.
func ForcePages(r *Reader) { r.noStream.Store(true) }

// Gets is how many single reads the reader puts into one transaction.
func (r *Reader) Gets() int { return r.gets() }
