package upstream

// Meter counts what a cache does. Functions that are nil count nothing.
type Meter struct {
	Result    func(Result)      // of an answer
	Received  func(bytes int64) // from the upstream
	Served    func(bytes int64) // to clients, of what was here
	Transfers func(delta int)
	Mismatch  func() // the upstream sent something that does not match its digest
}

func (m Meter) result(r Result) {
	if m.Result != nil {
		m.Result(r)
	}
}

func (m Meter) received(n int64) {
	if m.Received != nil && n > 0 {
		m.Received(n)
	}
}

func (m Meter) served(n int64) {
	if m.Served != nil && n > 0 {
		m.Served(n)
	}
}

func (m Meter) transfers(delta int) {
	if m.Transfers != nil {
		m.Transfers(delta)
	}
}

func (m Meter) mismatch() {
	if m.Mismatch != nil {
		m.Mismatch()
	}
}
