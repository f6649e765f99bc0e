//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// outage is how long what a cluster needs is gone.
const outage = time.Minute

// frozen is how long a node stands still: longer than others wait for what it holds.
const frozen = 15 * time.Second

// TestClusterOutages takes from a cluster under load what it needs, one after the other:
// nothing acknowledged is lost, nobody gets a wrong byte, who cannot be served is told to
// try again, and it heals by itself.
func TestClusterOutages(t *testing.T) {
	c := startCluster(t)
	l := &load{t: t, cluster: c, stop: make(chan struct{})}
	l.start()
	eventually(t, "pushes are acknowledged", l.more(50))

	c.db.stop()
	l.during(t, "PostgreSQL is stopped", 5*time.Second)
	for _, node := range c.nodes {
		expect(t, http.StatusServiceUnavailable)(node.client()(http.MethodGet, "/readyz", nil, nil))
	}
	c.db.start()
	eventually(t, "pushes are acknowledged after PostgreSQL was restarted", l.more(50))

	c.objects.stop()
	l.during(t, "S3 is stopped", outage)
	c.objects.start()
	eventually(t, "pushes are acknowledged after S3 was stopped", l.more(50))

	thaw := c.nodes[0].freeze()
	eventually(t, "pushes are acknowledged while a node stands still", l.more(20))
	time.Sleep(frozen)
	thaw()
	eventually(t, "pushes are acknowledged after a node stood still", l.more(50))

	close(l.stop)
	l.clients.Wait()
	l.checkAll(t)
}

// load is clients that push to a cluster, and pull what was acknowledged.
type load struct {
	t       *testing.T
	cluster *cluster
	stop    chan struct{}
	clients sync.WaitGroup

	mu      sync.Mutex
	loaded  []loaded
	refused int // requests, since that was last asked
}

// loaded is an image that was acknowledged.
type loaded struct {
	repository, tag string
	manifest, blob  []byte
}

func (l *load) start() {
	// Those behind the balancer meet every node; others know one.
	servers := append([]*process{l.cluster.front, l.cluster.front}, l.cluster.nodes[1:]...)
	for i, server := range servers {
		l.each(func(random *rand.Rand, round int) {
			l.push(l.cluster.to(server), fmt.Sprint("load/c", i), round, random)
		})
	}
	for _, server := range servers[1:] {
		l.each(func(random *rand.Rand, _ int) { l.pull(l.cluster.to(server), random) })
	}
}

// each does something again and again, with its own randomness.
func (l *load) each(do func(*rand.Rand, int)) {
	random := randomSource(l.t)
	l.clients.Go(func() {
		for round := 0; ; round++ {
			select {
			case <-l.stop:
				return
			default:
				do(random, round)
			}
		}
	})
}

// push pushes an image of a blob that is one's own.
func (l *load) push(send sender, repository string, round int, random *rand.Rand) {
	p := loaded{repository: repository, tag: fmt.Sprint("v", round), blob: noise(random, 1+random.IntN(64<<10))}
	p.manifest = imageOf(nil, p.blob)
	method := "single POST"
	if round%2 == 0 {
		method = "chunks"
	}
	a, err := pushBlob(send, p.repository, method, p.blob)
	if err == nil && a.status == http.StatusCreated {
		a, err = pushManifest(send, p.repository, p.tag, p.manifest)
	}
	if err == nil && a.status == http.StatusCreated {
		l.mu.Lock()
		l.loaded = append(l.loaded, p)
		l.mu.Unlock()
		return
	}
	l.refuse("push", a, err)
}

// pull pulls an image that was acknowledged.
func (l *load) pull(send sender, random *rand.Rand) {
	l.mu.Lock()
	if len(l.loaded) == 0 {
		l.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		return
	}
	p := l.loaded[random.IntN(len(l.loaded))]
	l.mu.Unlock()
	for path, content := range p.paths() {
		a, err := send(http.MethodGet, path, nil, nil)
		switch {
		case err != nil || a.status != http.StatusOK:
			l.refuse("pull", a, err)
		case !bytes.Equal(a.body, content):
			l.t.Errorf("GET %s: %d other bytes than the %d pushed", path, len(a.body), len(content))
		}
	}
}

func (p loaded) paths() map[string][]byte {
	return map[string][]byte{
		"/v2/" + p.repository + "/manifests/" + p.tag: p.manifest,
		blobPath(p.repository, p.blob):                p.blob,
	}
}

// refuse takes what is no success: only that one is to try again.
func (l *load) refuse(what string, a answer, err error) {
	l.mu.Lock()
	l.refused++
	l.mu.Unlock()
	switch {
	case err != nil && l.cluster != nil && strings.Contains(err.Error(), l.cluster.objects.addr):
		// It was sent to S3, which is gone.
	case err != nil:
		l.t.Errorf("%s: %v", what, err)
	case a.status != http.StatusServiceUnavailable:
		l.t.Errorf("%s: %v", what, a)
	case a.header.Get("Retry-After") == "":
		l.t.Errorf("%s: no Retry-After in %v", what, a)
	}
	time.Sleep(50 * time.Millisecond)
}

// more returns what is nil once n more pushes than now are acknowledged.
func (l *load) more(n int) func() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	want := len(l.loaded) + n
	return func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		return atLeast(len(l.loaded), want)
	}
}

// during waits until clients notice that something is gone, and then for a while.
func (l *load) during(t *testing.T, what string, d time.Duration) {
	t.Helper()
	l.mu.Lock()
	l.refused = 0
	l.mu.Unlock()
	eventually(t, "requests are refused while "+what, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		return atLeast(l.refused, 1)
	})
	time.Sleep(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%s: %d requests were refused", what, l.refused)
}

// checkAll reads all that was acknowledged at every node, and has the bucket verified.
func (l *load) checkAll(t *testing.T) {
	t.Helper()
	for _, node := range l.cluster.nodes {
		send := l.cluster.to(node)
		for _, p := range l.loaded {
			for path, content := range p.paths() {
				mustRead(t, send, path, content)
			}
		}
	}
	t.Logf("%d pushes were acknowledged", len(l.loaded))
	if stdout, stderr, code := l.cluster.nodes[0].registry("verify"); code != 0 {
		t.Errorf("verify: %s%s", stdout, stderr)
	}
}

// TestS3IsNotThereAtStart: the server starts all the same, says so, and heals by itself.
func TestS3IsNotThereAtStart(t *testing.T) {
	objects := newS3(t)
	objects.start()
	bucket := objects.newBucket(t)
	objects.stop()
	p := newProcess(t, objects.registry(bucket))
	p.start()
	send := p.client()
	p.eventually("the log tells that S3 is not there", func() bool { return strings.Contains(p.log(), "storage does not do what it is asked") })
	expect(t, http.StatusServiceUnavailable)(send(http.MethodGet, "/readyz", nil, nil))
	content := []byte("blob for S3")
	a := expect(t, http.StatusServiceUnavailable)(pushBlob(send, "team/app", "single POST", content))
	if a.header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After in %v", a)
	}
	objects.start()
	expect(t, http.StatusOK)(send(http.MethodGet, "/readyz", nil, nil))
	manifest := mustPush(t, send, "team/app", "v1", content)
	mustRead(t, send, "/v2/team/app/manifests/v1", manifest)
	mustRead(t, send, "/v2/team/app/blobs/"+digest.FromBytes(content).String(), content)
	p.stop()
	p.start()
	p.eventually("the log tells what S3 can do", func() bool { return strings.Contains(p.log(), "storage can do all that it is asked") })
	if left := objects.names(t, bucket, "registry/probe/"); len(left) > 0 {
		t.Errorf("left in the bucket: %v", left)
	}

	p = newProcess(t, objects.registry("nothing-of-that-name"))
	p.launch()
	p.awaitExit()
	if code := p.cmd.ProcessState.ExitCode(); code == 0 || !strings.Contains(p.log(), "there is no bucket nothing-of-that-name") {
		t.Errorf("exit code %d without a bucket:\n%s", code, p.logEnd())
	}
}
