//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// docsHosts are the names that the documentation has.
const docsHosts = `127.0.0.1 localhost registry.example.com old.example.com
127.0.0.2 registry-1.docker.io ghcr.io quay.io
`

// docsCaddyfile is what runs where the documentation takes for granted that something does.
const docsCaddyfile = `{
	skip_install_trust
	registry {
		storage filesystem ./storage
	}
}
registry.example.com, http://localhost:5050 {
	tls internal
	registry_auth {
		policy ** {
			anonymous read
			group artifact-workloads read create
			group admins read create update delete
		}
		admins group admins
	}
	registry_cache {
		upstream docker.io
	}
	registry_ui
	registry
}
`

// docsBlock matches a block of a Markdown file, and what language it is in.
var docsBlock = regexp.MustCompile("(?ms)^[ \t]*```([a-z]*)\n(.*?)^[ \t]*```$")

// TestCommandsInTheDocsWork runs what the documentation tells people to, as it is written,
// file by file.
func TestCommandsInTheDocsWork(t *testing.T) {
	if !alone(t, docsHosts) {
		return
	}
	d, db, objects := newDocs(t), newPostgres(t), newS3(t)
	db.start()
	objects.start()
	ran := map[string]bool{
		"CONTRIBUTING.md":             true, // these are the checks themselves
		"examples/blumeops/README.md": true, // TestHouse does that
	}
	for _, tt := range []struct {
		file    string
		before  string   // what has happened by then
		change  []string // what people put in, and what that is here
		hasTold bool     // whether what a command prints is told
	}{
		{file: "README.md", before: "curl() { command curl -fsS \"$@\"; }", change: []string{
			"registry gc --dry-run", "registry gc --dry-run; mkdir -p /mnt/backup", "/var/lib/zot", "./zot",
			"--digest sha256:…", "--digest $(caddy registry tags team/app --history --json | jq -r .digest | head -n 1)",
			"--to examples/cluster/Caddyfile", "--to empty/Caddyfile",
		}},
		{file: "docs/tutorial.md", hasTold: true, change: []string{
			"go run ./cmd/caddy reload", "sed -i '/anonymous read/a group ci read create' Caddyfile; go run ./cmd/caddy reload",
		}},
		{file: "docs/access.md", before: served, change: []string{
			"0b9d2f6e-…", "$(caddy registry apikey list | awk '/ ci /{print $1; exit}')",
		}},
		{file: "docs/upkeep.md", before: served + pushed + "skopeo copy -q --dest-creds=me:$API_KEY oci:./app docker://registry.example.com/other:v1; mkdir -p /mnt/backup\n" +
			"skopeo copy -q --dest-creds=me:$API_KEY oci:./my-image:v1 docker://registry.example.com/team/app:v1\n", change: []string{
			"/var/lib/zot", "./zot",
			"sha256:5a4c…", "$(caddy registry tags team/app --history --json | jq -r .digest | head -n 1)",
		}},
		{file: "docs/moving-from-distribution.md", before: served + "REGISTRY_AUTH_FILE= ; unset REGISTRY_AUTH_FILE\n" +
			"registry serve old.yml >>old.log 2>&1 & echo $! >>pids\nuntil curl -fsS old.example.com:5000/v2/; do sleep 0.1; done\n" +
			"for tag in v1 v2; do skopeo copy -q --dest-tls-verify=false oci:./app docker://old.example.com:5000/team/old:$tag; done\n" +
			"API_KEY=$(caddy registry apikey create --user move --group admins)\n"},
		{file: "examples/quickstart/README.md"},
		{file: "examples/private/README.md"},
		{file: "examples/mirror/README.md"},
		{file: "examples/monitoring/README.md"},
		{file: "examples/cluster/README.md", change: []string{
			"postgres://registry@localhost:5432/registry", db.newDatabase(t), "http://localhost:7070", objects.url(),
			"S3_BUCKET=images", "S3_BUCKET=" + objects.newBucket(t),
		}},
		{file: "examples/tls/README.md", change: []string{"./caddy ", "caddy "}},
	} {
		ran[tt.file] = true
		t.Run(strings.ReplaceAll(tt.file, "/", " "), func(t *testing.T) {
			d.in(t).run(tt.file, tt.before, tt.change, tt.hasTold)
		})
	}
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*/*.md"} {
		files, err := filepath.Glob(filepath.Join(d.root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(d.root, file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(content), "```sh\n") && !ran[filepath.ToSlash(name)] {
				t.Errorf("nobody runs the commands of %s", name)
			}
		}
	}
}

const (
	served = "caddy run\nexport API_KEY=$(caddy registry apikey create --user zot-ci --group admins)\n"
	pushed = "API_KEY=$(caddy registry apikey create --user me --group admins)\n" +
		"skopeo copy -q --dest-creds=me:$API_KEY oci:./app docker://registry.example.com/team/app:v1\n"
)

// docs is what the commands of the documentation find.
type docs struct {
	t           *testing.T
	root        string // of the checkout
	authorities string // a file with those that are trusted
	docker      *docker
	containerd  *containerd
}

func newDocs(t *testing.T) *docs {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	d := &docs{t: t, root: root}
	h := newHome(t)
	d.authorities = h.write("authorities", "")
	mountFile(t, d.authorities, systemRoots)
	hub, ghcr := upstreamtest.Start(t), upstreamtest.Start(t)
	alpine := fileImage(t)
	for _, tag := range []string{"latest", "3"} {
		publish(t, hub, "library/alpine", tag, alpine)
	}
	publish(t, hub, "library/nginx", "1.27", fileImage(t))
	publish(t, ghcr, "goauthentik/server", "2025.2", fileImage(t))
	internet := newHome(t)
	server := internet.start(caddyBinary, "run", "--adapter", "caddyfile", "--config",
		internet.write("Caddyfile", fmt.Sprintf(internetCaddyfile, hub.URL(), ghcr.URL(), ghcr.URL())))
	server.waitUntil(func() error {
		content, err := os.ReadFile(internet.path(authorityFile))
		if err != nil {
			return err
		}
		return os.WriteFile(d.authorities, content, 0)
	})
	for _, place := range []string{"/mnt", "/etc/containerd"} {
		if err := os.MkdirAll(place, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", place, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(place, syscall.MNT_DETACH) })
	}
	d.docker, d.containerd = startDockerWith(t, map[string]any{}), startContainerd2(t, &registry{t: t, addr: "localhost:5050"})
	return d
}

func (d *docs) in(t *testing.T) *docs {
	part := *d
	part.t = t
	return &part
}

// run runs the commands of a file in a folder of their own.
func (d *docs) run(file, before string, change []string, hasTold bool) {
	t := d.t
	h := newHome(t)
	h.allowUnsigned()
	h.env = append(h.env, "CADDY="+caddyBinary, "AUTHORITIES="+d.authorities, "DOCKER_HOST=unix://"+d.docker.path("docker.sock"),
		"CONTAINERD_ADDRESS="+d.containerd.socket, "PATH="+filepath.Dir(d.containerd.ctr)+":"+toolPath(), "CLOUDFLARE_API_TOKEN=none")
	d.prepare(h, before)

	content, err := os.ReadFile(filepath.Join(d.root, file))
	if err != nil {
		t.Fatal(err)
	}
	preamble, err := os.ReadFile("testdata/docs.sh")
	if err != nil {
		t.Fatal(err)
	}
	script := string(preamble) + before + "\n"
	told := make(map[int]string) // what the command of a block is said to print
	commands := 0
	for i, block := range docsBlock.FindAllStringSubmatch(string(content), -1) {
		switch {
		case block[1] == "sh":
			commands++
			script += fmt.Sprintf("{\n%s\n} >%d.out\n", block[2], commands)
		case hasTold && (block[1] == "json" || block[1] == "") && i > 0:
			told[commands] = strings.TrimSpace(block[2])
		}
	}
	if commands == 0 {
		t.Fatal("it has no commands")
	}
	h.run("/bin/bash", h.write("script", replaced(t, script, change...)))
	for block, want := range told {
		got := strings.ReplaceAll(string(h.read(fmt.Sprintf("%d.out", block))), "\r", "")
		if !strings.Contains(strings.ToLower(got), strings.ToLower(want)) {
			t.Errorf("block %d prints\n%s\nand not\n%s", block, got, want)
		}
	}
	if hasTold && len(told) == 0 {
		t.Error("nothing is told of what commands print")
	}
}

// prepare fills the folder with what is in a checkout, and what people have beside it.
func (d *docs) prepare(h *home, before string) {
	t := d.t
	t.Helper()
	caddyfile := docsCaddyfile
	if !strings.Contains(before, "caddy run") {
		content, err := os.ReadFile(filepath.Join(d.root, "Caddyfile"))
		if err != nil {
			t.Fatal(err)
		}
		caddyfile = string(content)
	}
	h.write("Caddyfile", caddyfile)
	h.write("empty/Caddyfile", "{\n\tregistry {\n\t\tstorage filesystem "+h.path("restored")+"\n\t}\n}\n")
	if err := os.CopyFS(h.path("examples"), os.DirFS(filepath.Join(d.root, "examples"))); err != nil {
		t.Fatal(err)
	}
	h.write("examples/tls/Caddyfile", replaced(t, exampleFile(t, "tls/Caddyfile"), "dns cloudflare {env.CLOUDFLARE_API_TOKEN}", "issuer internal", "{\n\temail", "{\n\tskip_install_trust\n\temail"))
	h.write("old.yml", "version: 0.1\nstorage: {filesystem: {rootdirectory: "+h.path("old")+"}}\nhttp: {addr: \"127.0.0.1:5000\"}\n")
	fileImage(t).writeLayout(t, h.path("my-image"), "v1")
	fileImage(t).writeLayout(t, h.path("app"), "v1")
	fileImage(t).writeLayout(t, h.path("my-layout"), "imported")
	fileImage(t).writeLayout(t, h.path("zot/team/zots"), "v1")
}
