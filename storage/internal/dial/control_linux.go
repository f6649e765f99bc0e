package dial

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// control bounds how long what was sent may stay without an acknowledgement: while there is
// such, nobody asks whether the other side is alive (tcp(7), TCP_USER_TIMEOUT).
func control(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	})
	return errors.Join(err, set)
}
