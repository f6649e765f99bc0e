//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// bareCaddyfile is a server that does nothing but answer: what it drops while it reloads
// its configuration is Caddy's.
const bareCaddyfile = `{
	metrics
}

http://:{$PORT} {
	bind 127.0.0.1
	log
	metrics /metrics
	respond "answer"
}
`

// TestReloadDropsNoMoreThanCaddy reloads the configuration again and again under clients
// that push and pull and never try again. A keep-alive connection that the old server
// closes as idle just when a request is on its way is lost with any Caddy. A registry
// must not lose more, and must never answer wrongly or forget what it acknowledged.
func TestReloadDropsNoMoreThanCaddy(t *testing.T) {
	random := randomSource(t)
	bare := newProcess(t, bareCaddyfile)
	bare.start()
	registry := startProcess(t)
	// At the same time, so that what else the machine does troubles both.
	bareLoad := startLoad(bare, random, false)
	registryLoad := startLoad(registry, random, true)
	for n := range reloads {
		for _, load := range []*reloadLoad{bareLoad, registryLoad} {
			load.await(betweenReloads)
			load.p.reload(load.config, n)
		}
	}
	expected, _ := bareLoad.end()
	got, kept := registryLoad.end()
	t.Logf("bare Caddy: %v", expected)
	t.Logf("registry:   %v", got)

	if len(got.wrong) > 0 {
		t.Errorf("%d wrong answers, such as %s", len(got.wrong), got.wrong[0])
	}
	// Both had as many reloads with as many connections. What is lost comes in bunches,
	// since one slow moment meets many connections: its variance was seen to be about 3
	// times that of single events.
	if excess, spread := float64(got.dropped-expected.dropped), math.Sqrt(3*float64(got.dropped+expected.dropped)); excess > 5*spread {
		t.Errorf("the registry dropped %d requests and bare Caddy %d, which is not by chance", got.dropped, expected.dropped)
	}
	send := registry.client()
	for path, d := range kept {
		a := expect(t, http.StatusOK)(send(http.MethodGet, path, nil, nil))
		if digest.FromBytes(a.body) != d {
			t.Errorf("%s was acknowledged but is %s", path, digest.FromBytes(a.body))
		}
	}
}

// tally counts what clients saw.
type tally struct {
	requests, dropped int
	errors            map[string]int // of requests that were dropped
	wrong             []string       // answers that there was no reason for
}

func (l tally) String() string {
	return fmt.Sprintf("%d of %d requests dropped (%.2g in a thousand), %d wrong answers; %v",
		l.dropped, l.requests, 1000*float64(l.dropped)/float64(l.requests), len(l.wrong), l.errors)
}

func (l *tally) add(other tally) {
	l.requests += other.requests
	l.dropped += other.dropped
	l.wrong = append(l.wrong, other.wrong...)
	if l.errors == nil {
		l.errors = make(map[string]int)
	}
	for what, n := range other.errors {
		l.errors[what] += n
	}
}

const (
	reloads       = 20
	reloadClients = 24
	// betweenReloads is how many requests are answered between two reloads. Counting
	// them, rather than time, makes the shares of a quick and a slow server comparable.
	betweenReloads = 400
)

// reloadLoad is clients that work on a server whose configuration is reloaded.
type reloadLoad struct {
	p       *process
	config  map[string]any
	clients []*reloadClient
	served  atomic.Int64
	stop    atomic.Bool
	wg      sync.WaitGroup
}

func startLoad(p *process, random *rand.Rand, isRegistry bool) *reloadLoad {
	l := &reloadLoad{p: p, config: p.adapted()}
	for i := range reloadClients {
		client := &reloadClient{
			wire:       &wire{address: "127.0.0.1:" + p.port},
			repository: fmt.Sprintf("client%d/image", i),
			random:     rand.New(rand.NewPCG(random.Uint64(), 0)),
			registry:   isRegistry,
			kept:       make(map[string]digest.Digest),
			tally:      tally{errors: make(map[string]int)},
			served:     &l.served,
		}
		l.clients = append(l.clients, client)
		l.wg.Go(func() {
			defer client.wire.close()
			for !l.stop.Load() {
				client.pushAndPull()
			}
		})
	}
	return l
}

// await waits until n more requests have ended.
func (l *reloadLoad) await(n int64) {
	enough := l.served.Load() + n
	l.p.eventually("clients are served", func() bool { return l.served.Load() >= enough })
}

// end returns what the clients saw, and the digests of what was acknowledged, by path.
func (l *reloadLoad) end() (tally, map[string]digest.Digest) {
	l.await(betweenReloads)
	l.stop.Store(true)
	l.wg.Wait()
	var all tally
	kept := make(map[string]digest.Digest)
	for _, client := range l.clients {
		all.add(client.tally)
		maps.Copy(kept, client.kept)
	}
	return all, kept
}

// reloadClient pushes and pulls images over one connection.
type reloadClient struct {
	wire       *wire
	repository string
	random     *rand.Rand
	registry   bool // a bare server answers 200 to everything
	kept       map[string]digest.Digest
	tally      tally
	served     *atomic.Int64
}

// pushAndPull pushes an image of one blob and pulls it, or stops at what fails.
func (c *reloadClient) pushAndPull() {
	blob := noise(c.random, 10_000)
	manifest := imageOf(nil, blob)
	tag := fmt.Sprintf("tag%d", c.random.IntN(1000))
	blobPath, tagPath := blobPath(c.repository, blob), "/v2/"+c.repository+"/manifests/"+tag
	_, ok := c.counted(http.StatusCreated)(pushBlob(c.send, c.repository, "single POST", blob))
	if !ok {
		return
	}
	c.kept[blobPath] = digest.FromBytes(blob)
	delete(c.kept, tagPath) // which of two manifests is there is not known if the push is cut
	if _, ok = c.counted(http.StatusCreated)(pushManifest(c.send, c.repository, tag, manifest)); !ok {
		return
	}
	c.kept[tagPath] = digest.FromBytes(manifest)
	for path, content := range map[string][]byte{blobPath: blob, tagPath: manifest} {
		a, ok := c.counted(http.StatusOK)(c.send(http.MethodGet, path, nil, nil))
		if ok && c.registry && !bytes.Equal(a.body, content) {
			c.tally.wrong = append(c.tally.wrong, path+": wrong bytes")
		}
	}
}

func (c *reloadClient) send(method, path string, header http.Header, body []byte) (answer, error) {
	defer c.served.Add(1)
	// Clients have other things to do, so that most connections are idle at a reload.
	time.Sleep(time.Duration(c.random.IntN(40)) * time.Millisecond)
	c.tally.requests++
	return c.wire.send(method, path, header, body)
}

// counted counts an answer and tells whether it is what it should be.
func (c *reloadClient) counted(status int) func(answer, error) (answer, bool) {
	return func(a answer, err error) (answer, bool) {
		if err != nil {
			c.tally.dropped++
			c.tally.errors[withoutPath(err)]++
			if a.status != 0 {
				c.tally.wrong = append(c.tally.wrong, "an answer that broke off: "+err.Error())
			}
			return a, false
		}
		if c.registry && a.status != status {
			c.tally.wrong = append(c.tally.wrong, a.String())
			return a, false
		}
		return a, true
	}
}

// withoutPath is the kind of an error: the text up to the path and after the last colon.
func withoutPath(err error) string {
	before, after, _ := strings.Cut(err.Error(), "/")
	return before + after[strings.LastIndex(after, ":")+1:]
}

// adapted returns a server's configuration as JSON.
func (p *process) adapted() map[string]any {
	p.t.Helper()
	output, err := p.command("adapt", "--config", p.config()).Output()
	if err != nil {
		p.t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(output, &config); err != nil {
		p.t.Fatal(err)
	}
	return config
}

// reload loads a configuration that differs from all others by n.
func (p *process) reload(config map[string]any, n int) {
	p.t.Helper()
	apps := config["apps"].(map[string]any)
	if app, ok := apps["registry"].(map[string]any); ok {
		app["upload_expiry"] = fmt.Sprintf("%dm", 60+n)
	}
	servers := apps["http"].(map[string]any)["servers"].(map[string]any)
	for _, server := range servers {
		server.(map[string]any)["@id"] = fmt.Sprintf("reload%d", n)
	}
	body, err := json.Marshal(config)
	if err != nil {
		p.t.Fatal(err)
	}
	admin := &wire{address: p.admin}
	defer admin.close()
	// The admin endpoint is reloaded too, which may cost its own connections.
	a, err := admin.send(http.MethodPost, "/load", http.Header{"Content-Type": {"application/json"}}, body)
	if err == nil && a.status != http.StatusOK {
		p.t.Fatalf("loading the configuration: %v", a)
	}
	p.eventually("the new configuration is loaded", func() bool {
		a, err := admin.send(http.MethodGet, fmt.Sprintf("/id/reload%d", n), nil, nil)
		return err == nil && a.status == http.StatusOK
	})
}

// TestReloadLetsTransfersFinish reloads the configuration in the middle of a chunk and of
// a pull, which both go on as if nothing had happened.
func TestReloadLetsTransfersFinish(t *testing.T) {
	random := randomSource(t)
	p := startProcess(t)
	send := p.client()
	blob := noise(random, 64<<20) // much more than the connection's buffers take
	expect(t, http.StatusCreated)(pushBlob(send, "pulled/image", "single POST", blob))
	pull, err := http.Get(p.url(blobPath("pulled/image", blob)))
	if err != nil {
		t.Fatal(err)
	}
	defer pull.Body.Close()
	pulled := make([]byte, 1<<20, len(blob))
	if _, err := io.ReadFull(pull.Body, pulled); err != nil {
		t.Fatal(err)
	}
	upload := expect(t, http.StatusAccepted)(send(http.MethodPost, "/v2/pushed/image/blobs/uploads/", nil, nil)).header.Get("Location")
	half := len(blob) / 2
	conn := sendPart(t, p, http.MethodPatch, upload, nil, blob[:half], len(blob))
	p.eventually("the first half is written", func() bool { return p.uploadFiles()[uploadID(upload)] == int64(half) })

	config := p.adapted()
	for n := range 3 {
		p.reload(config, n)
	}

	rest, err := io.ReadAll(pull.Body)
	if err != nil {
		t.Fatalf("the pull broke off: %v", err)
	}
	if !bytes.Equal(append(pulled, rest...), blob) {
		t.Error("wrong bytes were pulled")
	}
	if _, err := conn.Write(blob[half:]); err != nil {
		t.Fatalf("the push broke off: %v", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("the push was not answered: %v", err)
	}
	expect(t, http.StatusAccepted)(readAnswer(resp))
	expect(t, http.StatusCreated)(send(http.MethodPut, withQuery(upload, "digest="+digest.FromBytes(blob).String()), nil, nil))
	mustRead(t, send, blobPath("pushed/image", blob), blob)
}
