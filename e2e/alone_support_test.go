//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// aloneIn is the environment variable that has the name of the test which runs in a
// process of its own, and aloneCaddy where that finds the server.
const (
	aloneIn    = "E2E_ALONE_IN"
	aloneCaddy = "E2E_CADDY"
)

// alone runs a test once more, in a process that has a network, and a list of host names,
// of its own: every port is free there, names mean what hosts says, and nothing but this
// machine can be reached. It returns true in that process, where the test is to go on.
func alone(t *testing.T, hosts string) bool {
	t.Helper()
	needRoot(t)
	if os.Getenv(aloneIn) == t.Name() {
		h := newHome(t)
		h.run("ip", "link", "set", "lo", "up")
		mountFile(t, h.write("hosts", hosts), "/etc/hosts")
		mountFile(t, h.write("resolv.conf", ""), "/etc/resolv.conf")
		return true
	}
	timeout := grace
	if deadline, ok := t.Deadline(); ok {
		timeout = time.Until(deadline) - 2*grace
	}
	cmd := exec.Command("unshare", "--net", "--mount", "--", os.Args[0],
		"-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout="+timeout.String())
	cmd.Env = append(os.Environ(), aloneIn+"="+t.Name(), aloneCaddy+"="+caddyBinary)
	output, err := cmd.CombinedOutput()
	ran := strings.Contains(string(output), "=== RUN   "+t.Name()+"/")
	if err != nil || !ran {
		t.Errorf("%v (parts of it ran: %v)", err, ran)
	}
	t.Logf("in a network of its own:\n%s", output)
	return false
}

// mountFile has a file be seen in the place of another until the test ends.
func mountFile(t *testing.T, file, over string) {
	t.Helper()
	if err := syscall.Mount(file, over, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(fmt.Errorf("mounting %s: %w", over, err))
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(over, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
