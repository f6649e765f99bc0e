//go:build e2e

package e2e

import (
	"runtime"
	"testing"
)

// TestRunContainer runs an image from the registry with all that runs containers: its
// layers can be unpacked and its configuration means what it did.
func TestRunContainer(t *testing.T) {
	r := startRegistry(t)
	t.Run("containerd 1", func(t *testing.T) {
		startContainerd1(t).runs(r.in(t), "--plain-http")
	})
	t.Run("containerd 2", func(t *testing.T) {
		c := startContainerd2(t, r)
		c.runs(r.in(t), "--hosts-dir", c.path("certs.d"))
	})
	t.Run("docker", func(t *testing.T) {
		d := startDocker(t, r)
		d.runs(r.in(t))
	})
	t.Run("podman", func(t *testing.T) {
		newPodman(t).runs(r.in(t))
	})
}

// pushRunnable pushes an image that prints the greeting which is its last layer.
func pushRunnable(h *home, r *registry, name string) (greeting string) {
	h.t.Helper()
	crane := tool(h.t, "crane")
	if err := goBuild(h.path("hello"), "./e2e/testdata/hello"); err != nil {
		h.t.Fatal(err)
	}
	greeting = newGreeting()
	i := newImage(h.t, runtime.GOARCH,
		map[string][]byte{"hello": h.read("hello")},
		map[string][]byte{"greeting": []byte(greeting)})
	i.writeLayout(h.t, h.path("runnable"), "v1")
	h.run(crane, "push", h.path("runnable"), r.name(name))
	return greeting
}
