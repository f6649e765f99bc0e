//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestCluster is what is promised of three nodes that serve one registry.
func TestCluster(t *testing.T) {
	// What is left on disks is looked for as often as uploads may expire.
	c := startCluster(t, "\t\tdatabase postgres", "\t\tupload_expiry 30s\n\t\tdatabase postgres")
	t.Run("what a node acknowledged all others have", c.testTagsAreEverywhere)
	t.Run("one of many creates a tag", c.testOneCreates)
	t.Run("a cold image behind the balancer", func(t *testing.T) {
		c.testColdImage(t, "behind", []*process{c.front}, 1)
	})
	t.Run("a cold image without the balancer", func(t *testing.T) {
		c.testColdImage(t, "without", c.nodes, len(c.nodes))
	})
	t.Run("an upload goes on elsewhere after a kill", c.testUploadAfterKill)
	t.Run("two nodes go on with one upload", c.testUploadAtTwo)
	t.Run("no upload is left on a disk", c.testNothingIsSpooled)
	t.Run("two collect at once", c.testCollectAtOnce)
	t.Run("a backup is restored to one machine", c.testBackup)
	t.Run("a read needs no other node", c.testReadAlone)
}

// testTagsAreEverywhere moves a tag a thousand times, each time at another node.
func (c *cluster) testTagsAreEverywhere(t *testing.T) {
	const rounds = 1000
	var to []sender
	for _, node := range c.nodes {
		to = append(to, c.to(node))
	}
	blob := []byte("blob of all rounds")
	expect(t, http.StatusCreated)(pushBlob(to[0], "tags/moving", "single POST", blob))
	read := 0
	for round := range rounds {
		at := round % len(to)
		manifest := imageOf(map[string]string{"round": fmt.Sprint(round)}, blob)
		expect(t, http.StatusCreated)(pushManifest(to[at], "tags/moving", "latest", manifest))
		seen := 0
		for other := range to {
			if other == at {
				continue
			}
			a := expect(t, http.StatusOK)(to[other](http.MethodGet, "/v2/tags/moving/manifests/latest", nil, nil))
			if bytes.Equal(a.body, manifest) {
				seen++
			} else {
				t.Errorf("round %d: node %d has another manifest than node %d acknowledged", round, other, at)
			}
		}
		if seen == len(to)-1 {
			read++
		}
	}
	t.Logf("read by every other node at once: %d of %d", read, rounds)
}

// testOneCreates has clients of all nodes, who may create and no more, push different
// images under one tag.
func (c *cluster) testOneCreates(t *testing.T) {
	const rounds, clients = 20, 8
	key := c.newKey("bot", "ci")
	blob := []byte("blob of all creators")
	expect(t, http.StatusCreated)(pushBlob(c.to(c.nodes[0]), "tags/created", "single POST", blob))
	for round := range rounds {
		tag := fmt.Sprintf("v%d", round)
		start := make(chan struct{})
		var mu sync.Mutex
		var created []int
		var pushers sync.WaitGroup
		for i := range clients * len(c.nodes) {
			send := c.with(c.nodes[i%len(c.nodes)], key)
			manifest := imageOf(map[string]string{"pusher": fmt.Sprint(i)}, blob)
			pushers.Go(func() {
				<-start
				a, err := pushManifest(send, "tags/created", tag, manifest)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Error(err)
				case a.status == http.StatusCreated:
					created = append(created, i)
				case a.status != http.StatusForbidden:
					t.Errorf("pusher %d: %v", i, a)
				}
			})
		}
		close(start)
		pushers.Wait()
		if len(created) != 1 {
			t.Fatalf("round %d: %d pushers created the tag, %v", round, len(created), created)
		}
		for _, node := range c.nodes {
			a := expect(t, http.StatusOK)(c.to(node)(http.MethodGet, "/v2/tags/created/manifests/"+tag, nil, nil))
			if !strings.Contains(string(a.body), fmt.Sprintf(`"pusher":"%d"`, created[0])) {
				t.Errorf("round %d: pusher %d was told that it created %s", round, created[0], a.body)
			}
		}
	}
}

// testUploadAfterKill begins an upload at a node that is killed, and ends it at another.
func (c *cluster) testUploadAfterKill(t *testing.T) {
	content := noise(randomSource(t), 9<<20)
	const first = 5 << 20
	a, b := c.nodes[0], c.to(c.nodes[1])
	location := expect(t, http.StatusAccepted)(c.to(a)(http.MethodPost, "/v2/uploads/moved/blobs/uploads/", nil, nil)).header.Get("Location")
	expect(t, http.StatusAccepted)(c.to(a)(http.MethodPatch, location, contentRange(0, first), content[:first]))
	a.kill()
	answer := expect(t, http.StatusNoContent)(b(http.MethodGet, location, nil, nil))
	if got, want := answer.header.Get("Range"), fmt.Sprintf("0-%d", first-1); got != want {
		t.Errorf("Range of the upload is %q, want %q", got, want)
	}
	done := expect(t, http.StatusCreated)(b(http.MethodPut, withQuery(location, "digest="+digest.FromBytes(content).String()),
		contentRange(first, len(content)-first), content[first:]))
	if got := done.header.Get("Docker-Content-Digest"); got != digest.FromBytes(content).String() {
		t.Errorf("the blob's digest is %s", got)
	}
	mustRead(t, c.to(c.nodes[2]), blobPath("uploads/moved", content), content)
	a.start()
	mustRead(t, c.to(a), blobPath("uploads/moved", content), content)
}

// testUploadAtTwo leaves a chunk that hangs at a node, goes on at another, and then has
// the first one notice that its client is gone.
func (c *cluster) testUploadAtTwo(t *testing.T) {
	content := noise(randomSource(t), 6<<20)
	const first, hanging, second = 2 << 20, 3 << 20, 4 << 20
	a, b := c.to(c.nodes[0]), c.to(c.nodes[1])
	location := expect(t, http.StatusAccepted)(a(http.MethodPost, "/v2/uploads/twice/blobs/uploads/", nil, nil)).header.Get("Location")
	expect(t, http.StatusAccepted)(a(http.MethodPatch, location, contentRange(0, first), content[:first]))
	header := contentRange(first, len(content)-first)
	header.Set("Authorization", "Bearer "+c.key)
	conn := sendPart(t, c.nodes[0], http.MethodPatch, location, header, content[first:hanging], len(content)-first)
	eventually(t, "a part of the chunk has arrived", func() error {
		return atLeast(int(c.nodes[0].uploadFiles()[uploadID(location)]), hanging)
	})
	expect(t, http.StatusAccepted)(b(http.MethodPatch, location, contentRange(first, second-first), content[first:second]))
	conn.Close()
	eventually(t, "the first node has given up its chunk", func() error {
		for _, entry := range c.nodes[0].accessLog(location) {
			if entry.Status >= http.StatusBadRequest {
				return nil
			}
		}
		return errors.New("it has not")
	})
	answer := expect(t, http.StatusNoContent)(a(http.MethodGet, location, nil, nil))
	if got, want := answer.header.Get("Range"), fmt.Sprintf("0-%d", second-1); got != want {
		t.Fatalf("Range of the upload is %q, want %q", got, want)
	}
	expect(t, http.StatusCreated)(a(http.MethodPut, withQuery(location, "digest="+digest.FromBytes(content).String()),
		contentRange(second, len(content)-second), content[second:]))
	mustRead(t, b, blobPath("uploads/twice", content), content)
}

// testNothingIsSpooled: what was finished elsewhere a node removes from its own disk, and
// nothing of an upload is left in the bucket.
func (c *cluster) testNothingIsSpooled(t *testing.T) {
	for i, node := range c.nodes {
		eventually(t, "no upload is in the spool", func() error {
			if left := node.uploadFiles(); len(left) > 0 {
				return fmt.Errorf("node %d: %v", i, left)
			}
			return nil
		})
	}
	if left := c.objects.names(t, c.bucket, "uploads/"); len(left) > 0 {
		t.Errorf("parts of uploads are left in the bucket: %v", left)
	}
}

// testColdImage has 20 clients pull an image at once that nobody has pulled before.
func (c *cluster) testColdImage(t *testing.T, name string, servers []*process, most int) {
	const clients = 20
	image := c.up.AddImage("cold/"+name, "v1", upstreamtest.Bytes(uint64(len(name)), 24<<20), upstreamtest.Bytes(uint64(len(name))+100, 8<<20))
	c.up.SetRate(16 << 20) // so that all of them come while it arrives
	defer c.up.SetRate(0)
	c.up.Reset()
	var pulls sync.WaitGroup
	for i := range clients {
		send := c.to(servers[i%len(servers)])
		pulls.Go(func() { mustPull(t, send, "docker.io/cold/"+name, "v1", image) })
	}
	pulls.Wait()
	ratio := float64(c.up.BytesSent()) / float64(image.Size())
	t.Logf("upstream bytes ÷ image: %.3f", ratio)
	if ratio > float64(most)+0.01 { // the manifest may be asked for by HEAD and by GET
		t.Errorf("upstream bytes ÷ image is %.3f, want at most %d", ratio, most)
	}
}

func (c *cluster) testCollectAtOnce(t *testing.T) {
	mustPush(t, c.to(c.nodes[0]), "collected/kept", "v1", []byte("blob that is kept"))
	var collectors sync.WaitGroup
	for range 2 {
		for _, node := range c.nodes {
			collectors.Go(func() {
				if stdout, stderr, code := node.registry("gc"); code != 0 {
					t.Errorf("gc: %s%s", stdout, stderr)
				}
			})
		}
	}
	collectors.Wait()
	for _, node := range c.nodes {
		mustRead(t, c.to(node), blobPath("collected/kept", []byte("blob that is kept")), []byte("blob that is kept"))
	}
}

// testBackup backs up the cluster while one client pushes, and restores that on files.
func (c *cluster) testBackup(t *testing.T) {
	l := &load{t: t, cluster: c, stop: make(chan struct{})}
	l.each(func(random *rand.Rand, round int) { l.push(c.to(c.nodes[1]), "backups/app", round, random) })
	eventually(t, "pushes are acknowledged", l.more(20))
	l.mu.Lock()
	before := len(l.loaded)
	l.mu.Unlock()
	folder := filepath.Join(t.TempDir(), "backup")
	if stdout, stderr, code := c.nodes[0].registry("backup", folder); code != 0 {
		t.Fatalf("backup: %s%s", stdout, stderr)
	}
	close(l.stop)
	l.clients.Wait()
	single := startProcess(t)
	if stdout, stderr, code := single.registry("restore", folder); code != 0 {
		t.Fatalf("restore: %s%s", stdout, stderr)
	}
	for _, p := range l.loaded[:before] {
		for path, content := range p.paths() {
			mustRead(t, single.client(), path, content)
		}
	}
	if stdout, stderr, code := single.registry("verify"); code != 0 {
		t.Errorf("verify: %s%s", stdout, stderr)
	}
}

// testReadAlone stops all other nodes: what a node reads it asks only the database and the
// bucket for, and it is connected to nobody else.
func (c *cluster) testReadAlone(t *testing.T) {
	manifest := mustPush(t, c.to(c.nodes[1]), "alone/app", "v1", []byte("blob for one node"))
	for _, node := range c.nodes[1:] {
		defer node.freeze()()
	}
	for range 100 {
		mustRead(t, c.to(c.nodes[0]), "/v2/alone/app/manifests/v1", manifest)
		mustRead(t, c.to(c.nodes[0]), blobPath("alone/app", []byte("blob for one node")), []byte("blob for one node"))
	}
	to := c.nodes[0].connectedTo()
	if !to[c.db.port] {
		t.Errorf("the node is connected to the ports %v, and not to the database's", to)
	}
	for _, node := range c.nodes[1:] {
		if to[node.port] {
			t.Error("the node is connected to another one")
		}
	}
}
