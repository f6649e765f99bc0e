package upstream_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream"
)

var (
	registries = rapid.SampledFrom([]string{"docker.io", "ghcr.io", "localhost:5001", "mirror", "library", "10.0.0.1:80"})
	component  = rapid.OneOf(
		rapid.SampledFrom([]string{"docker.io", "ghcr.io", "localhost_5001", "10.0.0.1_80", "mirror", "library", "blumeops", "acme", "gcr.io", "nginx", "a:1"}),
		rapid.StringMatching(`[a-z0-9]{1,3}([._-][a-z0-9]{1,3})?`),
		rapid.StringMatching(`[a-zA:%_.?-]{0,4}`),
	)
	namespace = rapid.OneOf(
		rapid.SampledFrom([]string{"", "docker.io", "DOCKER.io", "localhost:5001", "mirror", "library", "own.example", "local.example:5050", "gcr.io"}),
		rapid.StringMatching(`[a-z.:/_]{0,12}`),
	)
)

// TestNamesKeepTheirPromises checks, for any configuration and any request, that a
// private name is sent nowhere, that a full name means itself, and that what is pushed
// is never taken for an upstream's.
func TestNamesKeepTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := upstream.Names{
			Upstreams: rapid.SliceOfNDistinct(registries, 0, 4, rapid.ID).Draw(t, "upstreams"),
			Private:   rapid.SliceOfN(rapid.SampledFrom([]string{"blumeops/**", "*/nginx", "a*", "**/x"}), 0, 2).Draw(t, "private"),
			Local:     []string{"local.example:5050"},
		}
		if len(n.Upstreams) > 0 && rapid.Bool().Draw(t, "has a default") {
			n.Default = n.Upstreams[0]
		}
		if err := n.Check(); err != nil {
			t.Fatal(err)
		}
		name := strings.Join(rapid.SliceOfN(component, 1, 4).Draw(t, "name"), "/")
		ns := namespace.Draw(t, "ns")
		own := ns == "" || ns == "own.example" || ns == "local.example:5050"
		asked := false
		got, err := n.Map(name, ns, "own.example", func(s string) (bool, error) {
			asked = true
			if s != name {
				t.Errorf("asked about %q", s)
			}
			return pushed(s)
		})
		checkMapped(t, n, name, own, got, err)
		if asked && (n.Default == "" || n.Private.Match(name)) {
			t.Error("asked for nothing")
		}
		repository, err := n.MapPush(name, ns, "own.example")
		if err != nil {
			return
		}
		if !own || repository != name {
			t.Errorf("pushed to %q", repository)
		}
		later, err := n.Map(repository, "", "", pushed)
		if err == nil && later.Upstream != "" && !later.ByDefault {
			t.Errorf("pushed, and now %+v", later)
		}
		later, err = n.Map(repository, "", "", func(string) (bool, error) { return true, nil })
		if err != nil || later.Upstream != "" {
			t.Errorf("pushed, known, and now %+v, %v", later, err)
		}
	})
}

func checkMapped(t *rapid.T, n upstream.Names, name string, own bool, got upstream.Mapped, err error) {
	if err != nil {
		if got != (upstream.Mapped{}) || !errors.Is(err, storage.ErrNameUnknown) && !errors.Is(err, storage.ErrNameInvalid) {
			t.Errorf("%+v, %v", got, err)
		}
		return
	}
	if got.Upstream == "" {
		if !own || got != (upstream.Mapped{Repository: name}) {
			t.Errorf("own: %+v", got)
		}
		return
	}
	first, rest, _ := strings.Cut(name, "/")
	prefixed := false
	for _, up := range n.Upstreams {
		prefixed = prefixed || rest != "" && first == strings.Replace(up, ":", "_", 1)
	}
	known, _ := pushed(name)
	if own && !prefixed && (n.Default == "" || known || n.Private.Match(name) || strings.ContainsAny(first, ".:")) {
		t.Errorf("private, and sent to %+v", got)
	}
	if got.ByDefault != (own && !prefixed) {
		t.Errorf("by default: %+v", got)
	}
	if storage.CheckName(got.Repository) != nil || storage.CheckName(got.Remote) != nil {
		t.Errorf("not names: %+v", got)
	}
	prefix := strings.Replace(got.Upstream, ":", "_", 1) + "/"
	if got.Repository != prefix+got.Remote || strings.ContainsAny(got.Upstream, ".:") && strings.HasPrefix(got.Remote, prefix) {
		t.Errorf("a name within its own: %+v", got)
	}
	again, err := n.Map(got.Repository, "", "", pushed)
	got.ByDefault = false
	if err != nil || again != got {
		t.Errorf("once %+v, and again %+v, %v", got, again, err)
	}
}

func TestMapOfAFullNameAllocatesNothing(t *testing.T) {
	for _, name := range []string{"blumeops/app", "docker.io/library/nginx", "localhost_5001/app"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = seed.Map(name, "", seedHost, pushed) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkMap(b *testing.B) {
	for _, request := range [][2]string{{"blumeops/app", ""}, {"acme/tool", ""}, {"docker.io/library/nginx", ""}, {"library/nginx", "docker.io"}, {"library/nginx", ""}} {
		b.Run(request[0]+" ns="+request[1], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := seed.Map(request[0], request[1], seedHost, pushed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
