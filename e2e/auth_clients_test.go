//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"os"
	"strings"
	"testing"
)

// TestClientsPushWithAKeyAndPullWithout lets every client push with a key for CI, each in
// its own way to be told the key, pull without any, and be refused if it pushes without.
func TestClientsPushWithAKeyAndPullWithout(t *testing.T) {
	g := startGuarded(t)
	key := g.keyOf("zot-ci")
	for _, client := range []struct {
		name   string
		pushes func(*guarded, string)
	}{
		{"docker", dockerPushes},
		{"containerd 1", containerd1Pushes},
		{"containerd 2", containerd2Pushes},
		{"podman", podmanPushes},
		{"buildah", buildahPushes},
		{"buildkit", buildkitPushes},
		{"skopeo", skopeoPushes},
		{"crane", cranePushes},
		{"regctl", regctlPushes},
		{"oras", orasPushes},
		{"helm", helmPushes},
		{"cosign", cosignPushes},
	} {
		t.Run(client.name, func(t *testing.T) { client.pushes(g.in(t), key) })
	}
}

// runWithSecret runs a client that reads a secret from its standard input.
func (h *home) runWithSecret(secret, binary string, args ...string) string {
	h.t.Helper()
	// A shell has printf built in: the secret is in no command line.
	h.env = append(h.env, "SECRET="+secret)
	defer func() { h.env = h.env[:len(h.env)-1] }()
	return h.run("/bin/sh", append([]string{"-c", `printf %s "$SECRET" | "$@"`, "sh", binary}, args...)...)
}

func dockerPushes(g *guarded, key string) {
	d := startDocker(g.t, g.registry)
	content := randomBytes(3 << 20)
	name := g.name("clients/docker:v1")
	id := d.command("import", d.write("rootfs.tar", string(newTar(g.t, map[string][]byte{"data": content}))), name)
	d.mustFail("unauthorized", d.cli, "push", name)

	d.runWithSecret(key, d.cli, "login", "--username", "zot-ci", "--password-stdin", g.addr)
	digest := pushedDigest(g.t, d.command("push", name))
	d.command("logout", g.addr)
	if stored := g.image("clients/docker", "v1"); stored.Digest.String() != digest || !bytes.Equal(stored.file(g.t, "data"), content) {
		g.t.Errorf("docker pushed %s but the registry has %s", digest, stored.Digest)
	}

	d.forget(name)
	d.command("pull", name)
	if got := d.command("image", "inspect", "--format", "{{.Id}}", name); got != id {
		g.t.Errorf("docker pulled %s, want %s", got, id)
	}
	wrong := strings.Repeat("x", len(key))
	h := newHome(g.t)
	h.env = append(h.env, "SECRET="+wrong)
	h.mustFail("neither an API key nor a token", "/bin/sh", "-c", `printf %s "$SECRET" | "$@"`, "sh", d.cli, "-H", "unix:///nosuch", "login", "--username", "zot-ci", "--password-stdin", g.addr)
}

func containerd1Pushes(g *guarded, key string) {
	startContainerd1(g.t).pushesWithKey(g, "clients/containerd1", key, "--plain-http")
}

func containerd2Pushes(g *guarded, key string) {
	c := startContainerd2(g.t, g.registry)
	c.pushesWithKey(g, "clients/containerd2", key, "--hosts-dir", c.path("certs.d"))
	c.pushesWithKey(g, "clients/containerd2-local", key, "--local", "--hosts-dir", c.path("certs.d"))
}

// pushesWithKey pushes an image for two platforms, and pulls it back without the key.
func (c *containerd) pushesWithKey(g *guarded, repository, key string, flags ...string) {
	c.t.Helper()
	pushed := newPlatforms(c.t)
	name := g.name(repository + ":v1")
	c.command("images import --all-platforms --no-unpack", nil, c.write("pushed.tar", string(newTar(c.t, pushed.layout(c.t, name)))))
	c.mustFail("401 Unauthorized", c.ctr, append(append(c.args("images", "push"), flags...), name)...)
	c.command("images push --user zot-ci:"+key, flags, name)
	pushed.wantSame(c.t, g.image(repository, "v1"))
	c.forget(name)
	c.command("images pull --all-platforms", flags, name)
	c.wantContent(pushed)
	c.forget(name)
}

func podmanPushes(g *guarded, key string) {
	p := newPodman(g.t)
	content := randomBytes(3 << 20)
	name := g.name("clients/podman:v1")
	id := p.command("import", "--quiet", "--change", "CMD=/data", p.write("rootfs.tar", string(newTar(g.t, map[string][]byte{"data": content}))), name)
	p.mustFail("anonymous may not create", p.binary, "push", "--tls-verify=false", id, name)
	p.runWithSecret(key, p.binary, "login", "--tls-verify=false", "--username=zot-ci", "--password-stdin", g.addr)
	p.command("push", "--tls-verify=false", "--digestfile=digest", id, name)
	stored := g.image("clients/podman", "v1")
	if got := string(p.read("digest")); got != stored.Digest.String() || !bytes.Equal(stored.file(g.t, "data"), content) {
		g.t.Errorf("podman pushed %s but the registry has %s", got, stored.Digest)
	}
	fresh := newPodman(g.t)
	fresh.command("pull", "--quiet", "--tls-verify=false", name)
	if got := fresh.file(name, "data"); !bytes.Equal(got, content) {
		g.t.Errorf("podman pulled %d bytes, want %d others", len(got), len(content))
	}
}

func buildahPushes(g *guarded, key string) {
	b := newBuildah(g.t)
	name := g.name("clients/buildah:v1")
	b.write("context/data", string(randomBytes(1<<20)))
	b.write("context/Containerfile", "FROM scratch\nCOPY data /data\n")
	b.command("build", "--tag="+name, b.path("context"))
	b.mustFail("anonymous may not create", b.binary, "push", "--tls-verify=false", name)
	b.command("push", "--tls-verify=false", "--creds=zot-ci:"+key, "--digestfile=digest", name)
	if got := g.digest("clients/buildah", "v1").String(); got != string(b.read("digest")) {
		g.t.Errorf("buildah pushed %s but the registry has %s", b.read("digest"), got)
	}
	newBuildah(g.t).command("pull", "--quiet", "--tls-verify=false", name)
}

func buildkitPushes(g *guarded, key string) {
	b := startBuildKit(g.t, g.registry)
	b.write("context/data", string(randomBytes(1<<20)))
	b.write("context/Dockerfile", "FROM scratch\nCOPY data /data\n")
	output := "type=image,push=true,name=" + g.name("clients/buildkit:v1")
	b.mustFail("anonymous may not create", b.buildctl, "build", "--progress=plain", "--frontend=dockerfile.v0",
		"--local=context="+b.path("context"), "--local=dockerfile="+b.path("context"), "--output="+output)
	b.write(".docker/config.json", string(encode(g.t, map[string]any{"auths": map[string]any{
		g.addr: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("zot-ci:" + key))},
	}})))
	digest := b.build("context", "--output="+output,
		"--export-cache=type=registry,mode=max,ref="+g.name("clients/buildkit:buildcache"))
	if got := g.digest("clients/buildkit", "v1").String(); got != digest {
		g.t.Errorf("buildkit pushed %s but the registry has %s", digest, got)
	}
	b.write(".docker/config.json", "{}")
	b.forget()
	b.write("derived/Dockerfile", "FROM "+g.name("clients/buildkit:v1")+" AS base\nFROM scratch\nCOPY --from=base /data /copied\n")
	b.build("derived", "--output=type=local,dest="+b.path("local"))
	if !bytes.Equal(b.read("local/copied"), b.read("context/data")) {
		g.t.Error("buildkit pulled other bytes")
	}
}

func skopeoPushes(g *guarded, key string) {
	skopeo, h := tool(g.t, "skopeo"), newHome(g.t)
	h.allowUnsigned()
	pushed := newPlatforms(g.t)
	pushed.writeLayout(g.t, h.path("pushed"), "v1")
	push := []string{"copy", "--all", "--dest-tls-verify=false", "oci:" + h.path("pushed") + ":v1", "docker://" + g.name("clients/skopeo:v1")}
	h.mustFail("anonymous may not create", skopeo, push...)
	h.runWithSecret(key, skopeo, "login", "--tls-verify=false", "--username=zot-ci", "--password-stdin", g.addr)
	h.run(skopeo, push...)
	h.run(skopeo, "logout", g.addr)
	pushed.wantSame(g.t, g.image("clients/skopeo", "v1"))
	h.run(skopeo, "copy", "--all", "--src-tls-verify=false", "docker://"+g.name("clients/skopeo:v1"), "oci:"+h.path("pulled")+":v1")
	pushed.wantLayout(g.t, h.path("pulled"))
}

func cranePushes(g *guarded, key string) {
	crane, h := tool(g.t, "crane"), newHome(g.t)
	pushed := newPlatforms(g.t)
	pushed.writeLayout(g.t, h.path("pushed"), "v1")
	name := g.name("clients/crane:v1")
	h.mustFail("anonymous may not create", crane, "push", h.path("pushed"), name)
	h.runWithSecret(key, crane, "auth", "login", g.addr, "--username=zot-ci", "--password-stdin")
	h.run(crane, "push", h.path("pushed"), name)
	h.run(crane, "copy", name, g.name("clients/crane-copy:v1")) // by mounts
	h.run(crane, "auth", "logout", g.addr)
	pushed.wantSame(g.t, g.image("clients/crane", "v1"))
	pushed.wantSame(g.t, g.image("clients/crane-copy", "v1"))
	h.run(crane, "pull", "--format=oci", name, h.path("pulled"))
	pushed.wantLayout(g.t, h.path("pulled"))
}

func regctlPushes(g *guarded, key string) {
	regctl, h := tool(g.t, "regctl"), newHome(g.t)
	pushed := newPlatforms(g.t)
	pushed.writeLayout(g.t, h.path("pushed"), "v1")
	name := g.name("clients/regctl:v1")
	h.run(regctl, "registry", "set", "--tls=disabled", g.addr)
	h.mustFail("unauthorized", regctl, "image", "copy", "ocidir://"+h.path("pushed")+":v1", name)
	h.runWithSecret(key, regctl, "registry", "login", "--user=zot-ci", "--pass-stdin", g.addr)
	h.run(regctl, "image", "copy", "ocidir://"+h.path("pushed")+":v1", name)
	h.mustFail("zot-ci may not update", regctl, "tag", "delete", name) // by another manifest under the tag, after a DELETE was refused
	h.run(regctl, "registry", "logout", g.addr)
	pushed.wantSame(g.t, g.image("clients/regctl", "v1"))
	h.run(regctl, "image", "copy", name, "ocidir://"+h.path("pulled")+":v1")
	pushed.wantLayout(g.t, h.path("pulled"))
}

func orasPushes(g *guarded, key string) {
	oras, h := tool(g.t, "oras"), newHome(g.t)
	name := g.name("clients/oras:v1")
	h.write("file", newGreeting())
	push := []string{"push", "--plain-http", "--artifact-type=application/example.file", name, "file"}
	h.mustFail("anonymous may not create", oras, push...)
	h.runWithSecret(key, oras, "login", "--plain-http", "--username=zot-ci", "--password-stdin", g.addr)
	h.run(oras, push...)
	h.run(oras, "attach", "--plain-http", "--artifact-type=application/example.note", name, "file")
	h.run(oras, "logout", g.addr)
	h.run(oras, "pull", "--plain-http", "--output=pulled", name)
	if got, want := h.read("pulled/file"), h.read("file"); !bytes.Equal(got, want) {
		g.t.Errorf("oras pulled %q, want %q", got, want)
	}
	if found := g.referrers("clients/oras", g.digest("clients/oras", "v1")); len(found) != 1 {
		g.t.Errorf("the referrers are %v, want 1", found)
	}
}

func helmPushes(g *guarded, key string) {
	helm, h := tool(g.t, "helm"), newHome(g.t)
	h.write("chart/Chart.yaml", "apiVersion: v2\nname: example\nversion: 1.2.3\ndescription: "+newGreeting()+"\n")
	h.run(helm, "package", "chart")
	push := []string{"push", "--plain-http", "example-1.2.3.tgz", "oci://" + g.name("clients")}
	h.mustFail("401", helm, push...)
	h.runWithSecret(key, helm, "registry", "login", "--plain-http", "--username=zot-ci", "--password-stdin", g.addr)
	h.run(helm, push...)
	h.run(helm, "registry", "logout", g.addr)
	h.mkdir("pulled")
	h.run(helm, "pull", "--plain-http", "--version=1.2.3", "--destination=pulled", "oci://"+g.name("clients/example"))
	if !bytes.Equal(h.read("pulled/example-1.2.3.tgz"), h.read("example-1.2.3.tgz")) {
		g.t.Error("helm pulled another chart")
	}
}

func cosignPushes(g *guarded, key string) {
	cosign, crane, h := tool(g.t, "cosign"), tool(g.t, "crane"), newHome(g.t)
	h.env = append(h.env, "COSIGN_PASSWORD=")
	h.run(cosign, "generate-key-pair")
	signed := fileImage(g.t)
	signed.writeLayout(g.t, h.path("signed"), "v1")
	h.runWithSecret(key, crane, "auth", "login", g.addr, "--username=zot-ci", "--password-stdin")
	h.run(crane, "push", h.path("signed"), g.name("clients/cosign:v1"))
	sign := []string{"sign", "--yes", "--key=cosign.key", "--tlog-upload=false", "--use-signing-config=false",
		"--allow-http-registry", g.name("clients/cosign@" + signed.Digest.String())}
	verify := []string{"verify", "--key=cosign.pub", "--insecure-ignore-tlog", "--allow-http-registry", g.name("clients/cosign:v1")}

	stored := h.read(".docker/config.json")
	if err := os.Remove(h.path(".docker/config.json")); err != nil {
		g.t.Fatal(err)
	}
	h.mustFail("anonymous may not create", cosign, sign...)
	h.mustFail("no signatures found", cosign, verify...)
	h.write(".docker/config.json", string(stored))
	h.run(cosign, sign...)
	h.run(crane, "auth", "logout", g.addr)
	if got := h.run(cosign, verify...); !strings.Contains(got, signed.Digest.String()) {
		g.t.Errorf("verified %s, want %s", got, signed.Digest)
	}
}
