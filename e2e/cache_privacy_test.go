//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// startDockerHub starts an upstream as Docker Hub is: names are in requests for tokens
// too, and it does not tell what does not exist from what is not allowed.
func startDockerHub(t *testing.T) *upstreamtest.Registry {
	t.Helper()
	up := upstreamtest.Start(t)
	up.RequireBearer(upstreamtest.Tokens{})
	up.AddImage("library/debian", "v1", upstreamtest.Bytes(1, 1000))
	return up
}

// TestPushingClientsTellUpstreamNoPrivateName has clients push, pull, move and delete
// images of names that are private by a glob, and of names that nobody said are. Those
// may be asked for, as what a mirror lacks is, until something is pushed there.
func TestPushingClientsTellUpstreamNoPrivateName(t *testing.T) {
	up := startDockerHub(t)
	r := startRegistry(t, cacheOf(cached("docker.io", up.URL()), "default docker.io", "private blumeops/**", "local_hosts "+ownName))
	h := newHome(t)
	h.allowUnsigned()
	layout := func(i *image) string {
		i.writeLayout(t, h.path(i.Digest.Encoded()), "v1")
		return h.path(i.Digest.Encoded())
	}
	crane, skopeo, regctl := tool(t, "crane"), tool(t, "skopeo"), tool(t, "regctl")
	plain := "--host=reg=" + r.addr + ",tls=disabled"
	c1, c2, d, p := startContainerd1(t), startContainerd2(t, r), startDocker(t, r, "http://"+r.addr), newPodman(t)
	b := startBuildKit(t, r, fmt.Sprintf("[registry.\"docker.io\"]\nmirrors = [%q]", r.addr))
	pushByContainerd := func(c *containerd, flags ...string) func(string, *image) {
		return func(name string, i *image) {
			c.command("images import --all-platforms --no-unpack", nil, c.write("pushed.tar", string(newTar(t, i.layout(t, name)))))
			c.command("images push", flags, name)
			c.forget(name)
			c.command("images pull", flags, name)
			c.forget(name)
		}
	}
	clients := map[string]func(name string, i *image){
		"containerd1": pushByContainerd(c1, "--plain-http"),
		"containerd2": pushByContainerd(c2, "--hosts-dir", c2.path("certs.d")),
		"docker": func(name string, i *image) {
			d.command("import", d.write("rootfs.tar", string(newTar(t, map[string][]byte{"data": i.file(t, "data")}))), name)
			d.command("push", name)
			d.forget(name)
			d.command("pull", name)
			d.forget(name)
		},
		"podman": func(name string, i *image) {
			p.command("import", "--quiet", p.write("rootfs.tar", string(newTar(t, map[string][]byte{"data": i.file(t, "data")}))), name)
			p.command("push", "--quiet", "--tls-verify=false", name)
			p.command("rmi", "--force", name)
			p.command("pull", "--quiet", "--tls-verify=false", name)
		},
		"buildkit": func(name string, i *image) {
			b.write("context/data", string(i.file(t, "data")))
			b.write("context/Dockerfile", "FROM scratch\nCOPY data /data\n")
			repository, _, _ := strings.Cut(name, ":v")
			b.build("context", "--output", "type=image,push=true,name="+name, "--export-cache", "type=registry,ref="+repository+":cache")
			b.forget()
			b.build("context", "--output", "type=image,push=true,name="+name, "--import-cache", "type=registry,ref="+repository+":cache")
		},
		"skopeo": func(name string, i *image) {
			h.run(skopeo, "copy", "--dest-tls-verify=false", "oci:"+layout(i)+":v1", "docker://"+name)
			h.run(skopeo, "inspect", "--tls-verify=false", "docker://"+name)
		},
		"crane": func(name string, i *image) {
			h.run(crane, "push", layout(i), name)
			h.run(crane, "validate", "--remote", name)
		},
		"regctl": func(name string, i *image) {
			h.run(regctl, plain, "image", "copy", "ocidir://"+layout(i)+":v1", name)
			h.run(regctl, plain, "tag", "ls", strings.TrimSuffix(name, ":v1"))
		},
	}
	for client, push := range clients {
		for _, organization := range []string{"blumeops", "org-of-" + client} {
			t.Run(client+" to "+organization, func(t *testing.T) {
				up.Reset()
				repository := r.name(organization + "/" + client)
				push(repository+":v1", fileImage(t))
				asked := up.Requests().Mentioning(organization)
				if organization == "blumeops" && len(asked) > 0 {
					t.Errorf("the upstream was asked for %v", asked)
				}
				t.Logf("at the first push the upstream was asked for %v", asked)

				up.Reset()
				push(repository+":v1", fileImage(t)) // the tag moves
				h.run(crane, "tag", repository+":v1", "v2")
				h.run(crane, "copy", repository+":v1", repository+"-other:v1")
				h.run(crane, "delete", repository+":v2")
				_, _, _ = h.try(crane, "digest", repository+":v2")
				h.run(crane, "delete", repository+"@"+h.run(crane, "digest", repository+":v1"))
				_, _, _ = h.try(crane, "pull", repository+":v1", h.path("gone"))
				_, _, _ = h.try(crane, "ls", repository)
				push(repository+":v1", fileImage(t)) // it comes back
				if asked := up.Requests().Mentioning(organization); len(asked) > 0 {
					t.Errorf("after the first push the upstream was asked for %v", asked)
				}
			})
		}
	}
}

// TestNoRequestTellsUpstreamPrivateName makes thousands of requests of all kinds, at the
// same time, for names that are private and mostly not there.
func TestNoRequestTellsUpstreamPrivateName(t *testing.T) {
	const clients, requests = 8, 600
	random := randomSource(t)
	up := startDockerHub(t)
	p := startCache(t, cached("docker.io", up.URL(), "not_found_ttl 1ms", "fresh 1ms"), "default docker.io", "private blumeops/** secret-*/**", "local_hosts "+ownName)
	send := p.client()
	// Of these one is private for what was pushed, and one for what was and is gone again.
	mustPush(t, send, "team/app", "v1", []byte("app"))
	manifest := mustPush(t, send, "gone/app", "v1", []byte("gone"))
	expect(t, http.StatusAccepted)(send(http.MethodDelete, "/v2/gone/app/manifests/v1", nil, nil))
	expect(t, http.StatusAccepted)(send(http.MethodDelete, "/v2/gone/app/manifests/"+digest.FromBytes(manifest).String(), nil, nil))
	expect(t, http.StatusAccepted)(send(http.MethodDelete, blobPath("gone/app", []byte("gone")), nil, nil))
	// And one is for what is only being pushed.
	expect(t, http.StatusAccepted)(send(http.MethodPost, "/v2/begun/app/blobs/uploads/", nil, nil))
	organizations := []string{"blumeops", "secret-plan", "team", "gone", "begun"}
	up.Reset()
	p.kill() // what makes a name private is not lost by it
	p.start()

	var wg sync.WaitGroup
	failed := make(chan error, clients)
	statuses := make([]map[int]int, clients)
	for n := range clients {
		c := privateClient{p.client(), rand.New(rand.NewPCG(random.Uint64(), 0)), organizations, make(map[int]int)}
		statuses[n] = c.statuses
		wg.Go(func() {
			for range requests {
				if err := c.request(); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	for _, organization := range organizations {
		if asked := up.Requests().Mentioning(organization); len(asked) > 0 {
			t.Errorf("the upstream was asked %d times for names of %s, such as %v", len(asked), organization, asked[0])
		}
	}
	told := make(map[int]int)
	for _, counts := range statuses {
		for status, n := range counts {
			told[status] += n
		}
	}
	t.Logf("answers: %v", told)
	if asked := len(up.Requests()); asked == 0 {
		t.Error("the upstream was asked for nothing, so nothing was tested")
	}
}

// privateClient makes requests by chance.
type privateClient struct {
	send          sender
	random        *rand.Rand
	organizations []string
	statuses      map[int]int
}

func (c privateClient) pick(from ...string) string { return from[c.random.IntN(len(from))] }

func (c privateClient) name() string {
	organization := c.pick(c.organizations...)
	return c.pick(organization+"/app", organization+"/app/part", fmt.Sprintf("%s/new%d", organization, c.random.IntN(1000)), organization+"/nginx")
}

// request makes a request for a private name, or now and then for one of the upstream's.
func (c privateClient) request() error {
	name := c.name()
	if c.random.IntN(20) == 0 {
		a, err := c.send(http.MethodGet, "/v2/library/debian/manifests/v1", nil, nil)
		c.statuses[a.status]++
		return err
	}
	content := fmt.Appendf(nil, "content %d", c.random.IntN(50))
	manifest := imageOf(nil, content)
	reference := c.pick("v1", "latest", digest.FromBytes(manifest).String())
	path := "/v2/" + name + c.pick(
		"/manifests/"+reference,
		"/manifests/"+reference,
		"/blobs/"+digest.FromBytes(content).String(),
		"/tags/list",
		"/referrers/"+digest.FromBytes(manifest).String(),
		"/blobs/uploads/"+digest.FromBytes(content).Encoded(),
		"/blobs/uploads/?mount="+digest.FromBytes(content).String()+"&from="+c.name(),
		"/blobs/uploads/?mount="+digest.FromBytes(content).String(),
		"/blobs/uploads/?digest="+digest.FromBytes(content).String(),
	)
	if c.random.IntN(4) == 0 {
		path = withQuery(path, "ns="+ownName)
	}
	method := c.pick(http.MethodGet, http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete)
	var body []byte
	header := http.Header{}
	switch {
	case strings.Contains(path, "/manifests/") && method == http.MethodPut:
		header.Set("Content-Type", imagespec.MediaTypeImageManifest)
		body = manifest
	case strings.Contains(path, "/uploads/?"):
		method = http.MethodPost
	}
	if strings.Contains(path, "?digest=") {
		body = content
	}
	a, err := c.send(method, path, header, body)
	if err != nil {
		return err
	}
	c.statuses[a.status]++
	if a.status >= http.StatusInternalServerError {
		return fmt.Errorf("%s %s: %v", method, path, a)
	}
	return nil
}

// TestNamesOfOthersTakeNoPush: what clients ask a mirror of Docker Hub for cannot be
// pushed, nor what says by its name that it is another registry's, on any site.
func TestNamesOfOthersTakeNoPush(t *testing.T) {
	up := startDockerHub(t)
	caddyfile := cacheCaddyfile(cached("docker.io", up.URL()), cached("ghcr.io", up.URL()), "default docker.io") +
		"\nhttp://second.example.com:{$PORT} {\n\tbind 127.0.0.1\n\tlog\n\tregistry\n}\n"
	p := newProcess(t, caddyfile)
	p.start()
	blob := []byte("blob")
	d := digest.FromBytes(blob).String()
	for _, host := range []string{"127.0.0.1:" + p.port, "second.example.com:" + p.port} {
		for _, name := range []string{"library/debian", "library/new", "debian", "docker.io/library/x", "docker.io/o/x", "ghcr.io/o/x", "quay.io/o/x"} {
			for _, push := range []struct {
				method, path string
				body         []byte
			}{
				{http.MethodPost, "/blobs/uploads/", nil},
				{http.MethodPost, "/blobs/uploads/?digest=" + d, blob},
				{http.MethodPost, "/blobs/uploads/?mount=" + d, nil},
				{http.MethodPatch, "/blobs/uploads/1", blob},
				{http.MethodPut, "/blobs/uploads/1?digest=" + d, blob},
				{http.MethodPut, "/manifests/v1", imageOf(nil, blob)},
				{http.MethodPut, "/manifests/" + d, imageOf(nil, blob)},
			} {
				wantUnsupported(t, p, host, push.method, "/v2/"+name+push.path, push.body)
			}
		}
	}
	wantUnsupported(t, p, "127.0.0.1:"+p.port, http.MethodPost, "/v2/team/app/blobs/uploads/?ns=docker.io", nil)
	crane, h := tool(t, "crane"), newHome(t)
	fileImage(t).writeLayout(t, h.path("layout"), "v1")
	for _, name := range []string{"library/debian", "debian", "docker.io/library/debian"} {
		h.mustFail("UNSUPPORTED", crane, "push", h.path("layout"), "127.0.0.1:"+p.port+"/"+name+":v1")
	}
	if stats := p.stats(); stats["uploads"] != 0 {
		t.Errorf("something was begun: %v", stats)
	}
	mustPush(t, p.client(), "team/app", "v1", blob)
}

// wantUnsupported fails the test unless a push to a site is refused with 405.
func wantUnsupported(t *testing.T, p *process, host, method, path string, body []byte) {
	t.Helper()
	request, err := http.NewRequest(method, p.url(path), strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	request.Host = host
	request.Header.Set("Content-Type", imagespec.MediaTypeImageManifest)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	a, err := readAnswer(response)
	if err != nil {
		t.Fatal(err)
	}
	if a.status != http.StatusMethodNotAllowed || !strings.Contains(string(a.body), `"UNSUPPORTED"`) {
		t.Errorf("%s http://%s%s: %v, want 405 UNSUPPORTED", method, host, path, a)
	}
}
