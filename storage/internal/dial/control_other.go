//go:build !linux

package dial

import "syscall"

// control leaves it to the system how long it sends again what nobody acknowledges.
func control(_, _ string, _ syscall.RawConn) error { return nil }
