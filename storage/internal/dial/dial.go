// Package dial makes connections to servers of storage that end when the other side has
// vanished without a word, as one does that loses its power or its network. Otherwise who
// waits for an answer would do so for a quarter of an hour.
package dial

import (
	"net"
	"time"
)

// Timeout is how long it may take to be connected.
const Timeout = 10 * time.Second

// silence is how long the other side may acknowledge nothing.
const silence = 20 * time.Second

// New returns what makes such connections.
func New() *net.Dialer {
	return &net.Dialer{
		Timeout:         Timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 4, Count: 2},
		Control:         control,
	}
}
