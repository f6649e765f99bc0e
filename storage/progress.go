package storage

// Progress is what long work tells while it goes on.
type Progress struct {
	// Line is something to tell, such as what was removed and why; empty: only how far
	// the work is.
	Line string `json:"line,omitempty"`
	// Done and Total are how far it is, in Unit; a Total of 0 is not known.
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
	// Unit is "bytes", or what else is counted, such as "blobs".
	Unit string `json:"unit,omitempty"`
}

// Report takes progress. It may be called by several goroutines at once, and often: it
// is for the receiver to pass on no more than is of use.
type Report func(Progress)
