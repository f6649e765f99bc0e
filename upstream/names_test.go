package upstream_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/glob"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream"
)

// seed is a registry with three upstreams and Docker Hub as the default, in front of
// which clients use several host names.
var seed = upstream.Names{
	Upstreams: []string{"docker.io", "ghcr.io", "quay.io", "localhost:5001", "mirror"},
	Default:   "docker.io",
	Private:   glob.Set{"blumeops/**"},
	Local:     []string{"registry.ops.eblu.me"},
}

const seedHost = "host.minikube.internal:5050"

// pushed is what storage knows: acme/tool was pushed once, and with it all of acme/….
func pushed(name string) (bool, error) {
	return name == "acme" || strings.HasPrefix(name, "acme/"), nil
}

func TestMap(t *testing.T) {
	mapped := func(up, remote string) upstream.Mapped {
		return upstream.Mapped{Repository: strings.Replace(up, ":", "_", 1) + "/" + remote, Upstream: up, Remote: remote}
	}
	byDefault := func(remote string) upstream.Mapped {
		m := mapped("docker.io", remote)
		m.ByDefault = true
		return m
	}
	own := func(name string) upstream.Mapped { return upstream.Mapped{Repository: name} }
	for _, test := range []struct {
		name, ns string
		want     upstream.Mapped
	}{
		// 1: the parameter
		{"library/nginx", "docker.io", mapped("docker.io", "library/nginx")},
		{"nginx", "docker.io", mapped("docker.io", "library/nginx")},
		{"library/nginx", "Docker.IO", mapped("docker.io", "library/nginx")},
		{"goauthentik/server", "ghcr.io", mapped("ghcr.io", "goauthentik/server")},
		{"nginx", "ghcr.io", mapped("ghcr.io", "nginx")},
		{"app", "localhost:5001", mapped("localhost:5001", "app")},
		{"mirror/app", "mirror", mapped("mirror", "mirror/app")},
		// What is private here is not so there.
		{"blumeops/app", "docker.io", mapped("docker.io", "blumeops/app")},
		{"acme/tool", "quay.io", mapped("quay.io", "acme/tool")},
		// with containerd's override_path
		{"docker.io/library/nginx", "docker.io", mapped("docker.io", "library/nginx")},
		{"docker.io/nginx", "docker.io", mapped("docker.io", "library/nginx")},
		{"docker.io/docker.io/nginx", "docker.io", mapped("docker.io", "library/nginx")},
		{"localhost_5001/app", "localhost:5001", mapped("localhost:5001", "app")},
		{"ghcr.io/x/y", "docker.io", mapped("docker.io", "ghcr.io/x/y")},
		// this registry itself
		{"blumeops/app", "registry.ops.eblu.me", own("blumeops/app")},
		{"blumeops/app", "REGISTRY.ops.eblu.me", own("blumeops/app")},
		{"blumeops/app", "registry.ops.eblu.me:443", own("blumeops/app")},
		{"blumeops/app", "host.minikube.internal:5050", own("blumeops/app")},
		{"docker.io/library/nginx", "registry.ops.eblu.me", mapped("docker.io", "library/nginx")},
		{"library/nginx", "registry.ops.eblu.me", byDefault("library/nginx")},
		// 2: the prefix
		{"docker.io/library/nginx", "", mapped("docker.io", "library/nginx")},
		{"docker.io/nginx", "", mapped("docker.io", "library/nginx")},
		{"docker.io/docker.io/library/nginx", "", mapped("docker.io", "library/nginx")},
		{"docker.io/blumeops/app", "", mapped("docker.io", "blumeops/app")},
		{"ghcr.io/goauthentik/server", "", mapped("ghcr.io", "goauthentik/server")},
		{"quay.io/nginx", "", mapped("quay.io", "nginx")},
		{"localhost_5001/app", "", mapped("localhost:5001", "app")},
		{"mirror/app", "", mapped("mirror", "app")},
		{"mirror/mirror/app", "", mapped("mirror", "mirror/app")},
		// 3: private
		{"blumeops/app", "", own("blumeops/app")},
		{"blumeops", "", own("blumeops")},
		{"blumeops/a/b", "", own("blumeops/a/b")},
		{"acme/tool", "", own("acme/tool")},
		{"acme/other", "", own("acme/other")},
		// another registry's host
		{"docker.io", "", own("docker.io")},
		{"gcr.io/x/y", "", own("gcr.io/x/y")},
		{"registry.ops.eblu.me/blumeops/app", "", own("registry.ops.eblu.me/blumeops/app")},
		{"ghcr.io.evil.example/x", "", own("ghcr.io.evil.example/x")},
		{"localhost:5001/app", "", own("localhost:5001/app")},
		{"Docker.io/nginx", "", own("Docker.io/nginx")},
		// 4: the default
		{"library/alpine", "", byDefault("library/alpine")},
		{"alpine", "", byDefault("library/alpine")},
		{"bitnami/redis", "", byDefault("bitnami/redis")},
		{"blumeops2/app", "", byDefault("blumeops2/app")},
		{"mirror", "", byDefault("library/mirror")},
		{"ghcr/io", "", byDefault("ghcr/io")},
	} {
		got, err := seed.Map(test.name, test.ns, seedHost, pushed)
		if err != nil || got != test.want {
			t.Errorf("%s ns=%s: %+v, %v, want %+v", test.name, test.ns, got, err, test.want)
		}
	}
}

func TestMapWithoutDefaultAsksNothing(t *testing.T) {
	names := upstream.Names{Upstreams: []string{"ghcr.io"}}
	for _, name := range []string{"library/alpine", "alpine", "blumeops/app"} {
		got, err := names.Map(name, "", "localhost:5050", nil)
		if want := (upstream.Mapped{Repository: name}); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// Only Docker Hub has a library.
	names.Default = "ghcr.io"
	got, err := names.Map("alpine", "", "", pushed)
	if want := (upstream.Mapped{"ghcr.io/alpine", "ghcr.io", "alpine", true}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestMapRefusesWhatIsNobodysHere(t *testing.T) {
	long := strings.Repeat("a/", 124) + "aaa" // 251 bytes, and with the upstream 261
	broken := errors.New("broken")
	for _, test := range []struct {
		name, ns string
		want     error
	}{
		{"library/nginx", "gcr.io", storage.ErrNameUnknown},
		{"library/nginx", "docker.io.evil.example", storage.ErrNameUnknown},
		{"library/nginx", "docker.io/", storage.ErrNameUnknown},
		{"library/nginx", "docker.io:80", storage.ErrNameUnknown},
		{"library/nginx", "localhost_5001", storage.ErrNameUnknown},
		{"blumeops/app", "registry.ops.eblu.me:5050", storage.ErrNameUnknown},
		{"blumeops/app", "host.minikube.internal", storage.ErrNameUnknown},
		{"docker.io/library/nginx", "gcr.io", storage.ErrNameUnknown},
		{long, "docker.io", storage.ErrNameInvalid},
		{long, "", storage.ErrNameInvalid},
		{"docker.io/../x", "", storage.ErrNameInvalid},
		{"docker.io//x", "", storage.ErrNameInvalid},
		{"Library/x", "", storage.ErrNameInvalid},
		{"x%2fy", "ghcr.io", storage.ErrNameInvalid},
		{"x?y", "ghcr.io", storage.ErrNameInvalid},
		{"", "ghcr.io", storage.ErrNameInvalid},
		{"down/x", "", broken},
	} {
		got, err := seed.Map(test.name, test.ns, seedHost, func(name string) (bool, error) {
			if name == "down/x" {
				return false, broken
			}
			return false, nil
		})
		if !errors.Is(err, test.want) || got != (upstream.Mapped{}) {
			t.Errorf("%s ns=%s: %+v, %v, want %v", test.name, test.ns, got, err, test.want)
		}
	}
}

func TestMapPush(t *testing.T) {
	private := upstream.Names{Upstreams: []string{"ghcr.io", "mirror"}}
	for _, test := range []struct {
		names    upstream.Names
		name, ns string
		want     error
	}{
		{seed, "blumeops/app", "", nil},
		{seed, "blumeops/app", "registry.ops.eblu.me", nil},
		{seed, "blumeops/app", seedHost, nil},
		{seed, "other/app", "", nil}, // who may is not decided here
		{seed, "library2/app", "", nil},
		{seed, "blumeops/app", "docker.io", upstream.ErrTakesNoPush},
		{seed, "blumeops/app", "gcr.io", storage.ErrNameUnknown},
		{seed, "docker.io/blumeops/app", "", upstream.ErrTakesNoPush},
		{seed, "docker.io/blumeops/app", "registry.ops.eblu.me", upstream.ErrTakesNoPush},
		{seed, "gcr.io/blumeops/app", "", upstream.ErrTakesNoPush},
		{seed, "localhost:5001/app", "", upstream.ErrTakesNoPush},
		{seed, "localhost_5001/app", "", upstream.ErrTakesNoPush},
		{seed, "mirror/app", "", upstream.ErrTakesNoPush},
		{seed, "nginx", "", upstream.ErrTakesNoPush},
		{seed, "library/nginx", "", upstream.ErrTakesNoPush},
		{seed, "library/a/b", "", upstream.ErrTakesNoPush},
		{private, "nginx", "", nil},
		{private, "library/nginx", "", nil},
		{private, "mirror", "", upstream.ErrTakesNoPush},
		{upstream.Names{}, "docker.io/x", "", upstream.ErrTakesNoPush},
	} {
		got, err := test.names.MapPush(test.name, test.ns, seedHost)
		if !errors.Is(err, test.want) || err == nil && got != test.name || err != nil && got != "" {
			t.Errorf("%s ns=%s: %q, %v, want %v", test.name, test.ns, got, err, test.want)
		}
	}
}

func TestCheckRefusesNamesThatCannotBeToldApart(t *testing.T) {
	if err := seed.Check(); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		names upstream.Names
		want  string
	}{
		{upstream.Names{Upstreams: []string{"ghcr.io", "ghcr.io"}}, "upstream ghcr.io is given twice"},
		{upstream.Names{Upstreams: []string{"a:5001", "a_5001"}}, "upstream a_5001: names that begin with a_5001 are those of upstream a:5001"},
		{upstream.Names{Upstreams: []string{"Docker.io"}}, "lower case"},
		{upstream.Names{Upstreams: []string{""}}, "must be a host's name"},
		{upstream.Names{Upstreams: []string{"https://ghcr.io"}}, `"//ghcr.io" is not a port`},
		{upstream.Names{Upstreams: []string{"ghcr.io/x"}}, "must be a host's name"},
		{upstream.Names{Upstreams: []string{"[::1]:5000"}}, "is not a port"},
		{upstream.Names{Upstreams: []string{"a:0"}}, "is not a port"},
		{upstream.Names{Upstreams: []string{"a:080"}}, "is not a port"},
		{upstream.Names{Upstreams: []string{"a:"}}, "is not a port"},
		{upstream.Names{Upstreams: []string{"a:99999"}}, "is not a port"},
		{upstream.Names{Upstreams: []string{"a-:1"}}, "must be a host's name"},
		{upstream.Names{Upstreams: []string{"a"}, Default: "b"}, "default b: there is no such upstream"},
		{upstream.Names{Upstreams: []string{"a"}, Local: []string{"A"}}, "local host A: it is upstream a"},
		{upstream.Names{Local: []string{"https://a"}}, "must be a host's name"},
		{upstream.Names{Local: []string{""}}, "must be a host's name"},
	} {
		if err := test.names.Check(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.names, err, test.want)
		}
	}
}
