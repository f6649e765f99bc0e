//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestKillLosesNothingAcknowledged kills the server again and again under clients that
// push, mount, overwrite and delete. After each restart everything that a client was
// told is still so, and what it was not told yet is whole or not there at all.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	const rounds, clients = 15, 6
	random := randomSource(t)
	p := startProcess(t)
	pushers := make([]*pusher, clients)
	for i := range pushers {
		pushers[i] = newPusher(p.client(), fmt.Sprintf("load%d", i), random)
	}
	cut := 0
	for round := range rounds {
		load := time.Duration(20+random.IntN(500)) * time.Millisecond
		var wg sync.WaitGroup
		for _, pusher := range pushers {
			wg.Go(func() { pusher.pushUntilCut() })
		}
		time.Sleep(load)
		p.kill()
		wg.Wait()
		p.start()
		for _, pusher := range pushers {
			if pusher.wrong != nil {
				t.Fatalf("round %d: %v", round, pusher.wrong)
			}
			cut += len(pusher.ledger.undecided())
			wg.Go(func() { pusher.wrong = pusher.ledger.check(pusher.send) })
		}
		wg.Wait()
		for _, pusher := range pushers {
			if pusher.wrong != nil {
				t.Fatalf("after kill %d: %v", round+1, pusher.wrong)
			}
		}
		checkUploadFiles(t, p)
	}
	told := make(map[string]int)
	for _, pusher := range pushers {
		for what, n := range pusher.told {
			told[what] += n
		}
	}
	t.Logf("%d kills, %d places undecided at them, acknowledged: %v", rounds, cut, told)
	if cut == 0 {
		t.Error("no kill met a request, so nothing was tested")
	}
	for _, what := range append([]string{"mount", "tag moved", "delete blob", "delete manifest", "delete tag"}, pushMethods...) {
		if told[what] == 0 {
			t.Errorf("no %s was acknowledged, so nothing was tested of it", what)
		}
	}
}

// checkUploadFiles checks that no upload's file is there for long, after a start, that the
// registry knows nothing of.
func checkUploadFiles(t *testing.T, p *process) {
	t.Helper()
	known := p.stats()["uploads"]
	p.eventually(fmt.Sprintf("there are files of no more than the %d uploads that the registry knows", known), func() bool {
		return len(p.uploadFiles()) <= known
	})
}

// place is where content can be: a blob, a manifest or a tag of a repository.
type place struct{ repository, kind, reference string }

func (p place) path() string { return "/v2/" + p.repository + "/" + p.kind + "/" + p.reference }

const absent digest.Digest = ""

// ledger is what a client knows of places: the digest of what is there, or absent. While
// a request is under way, and after it was cut, more than one may be true.
type ledger map[place][]digest.Digest

// undecided returns the places of which more than one thing may be true.
func (l ledger) undecided() []place {
	return slices.DeleteFunc(slices.Collect(maps.Keys(l)), func(p place) bool { return len(l[p]) < 2 })
}

// check reads every place, and notes which of what may be true is.
func (l ledger) check(send sender) error {
	for place, allowed := range l {
		a, err := send(http.MethodGet, place.path(), nil, nil)
		if err != nil {
			return err
		}
		found := absent
		switch a.status {
		case http.StatusOK:
			found = digest.FromBytes(a.body)
			if told := a.header.Get("Docker-Content-Digest"); told != found.String() {
				return fmt.Errorf("%s: bytes of %s are said to be %s", place.path(), found, told)
			}
		case http.StatusNotFound:
		default:
			return fmt.Errorf("%s: %v", place.path(), a)
		}
		if !slices.Contains(allowed, found) {
			return fmt.Errorf("%s: found %q, must be one of %q", place.path(), found, allowed)
		}
		l[place] = []digest.Digest{found}
	}
	return nil
}

// pusher is a client that is the only one to write to its two repositories. The blobs
// that it pushes are partly those that others push at the same time.
type pusher struct {
	send         sender
	repositories []string
	random       *rand.Rand
	ledger       ledger
	manifests    []place // those pushed, by digest
	told         map[string]int
	serial       int
	wrong        error
}

func newPusher(send sender, name string, random *rand.Rand) *pusher {
	return &pusher{
		send:         send,
		repositories: []string{name + "/a", name + "/b"},
		random:       rand.New(rand.NewPCG(random.Uint64(), 0)),
		ledger:       make(ledger),
		told:         make(map[string]int),
	}
}

// errRefused is an answer that the registry must not give.
var errRefused = errors.New("refused")

// pushUntilCut works until a request fails.
func (c *pusher) pushUntilCut() {
	for {
		err := c.pushImage()
		if err == nil && c.random.IntN(3) == 0 {
			err = c.remove()
		}
		if errors.Is(err, errRefused) {
			c.wrong = err
		}
		if err != nil {
			return
		}
	}
}

// change makes a request that, once it is answered with status, has made changes true.
func (c *pusher) change(what string, changes ledger, status int, request func() (answer, error)) error {
	for place, after := range changes {
		before := c.ledger[place]
		if before == nil {
			before = []digest.Digest{absent}
		}
		if !slices.Equal(before, after) {
			c.ledger[place] = append(slices.Clone(before), after...)
		}
	}
	a, err := request()
	if err != nil {
		return err
	}
	if a.status != status {
		return fmt.Errorf("%w: %s: %v", errRefused, what, a)
	}
	maps.Copy(c.ledger, changes)
	c.told[what]++
	return nil
}

func (c *pusher) pushImage() error {
	repository := c.repositories[c.random.IntN(2)]
	var blobs [][]byte
	for range 2 + c.random.IntN(2) {
		blob := c.blob()
		if err := c.pushBlob(repository, blob); err != nil {
			return err
		}
		blobs = append(blobs, blob)
	}
	if err := c.mount(repository, blobs[0]); err != nil {
		return err
	}
	c.serial++
	manifest := imageOf(map[string]string{"serial": fmt.Sprint(c.serial)}, blobs...)
	d := digest.FromBytes(manifest)
	tag := place{repository, "manifests", fmt.Sprintf("tag%d", c.random.IntN(4))}
	what := "tag"
	if slices.ContainsFunc(c.ledger[tag], func(d digest.Digest) bool { return d != absent }) {
		what = "tag moved"
	}
	byDigest := place{repository, "manifests", d.String()}
	err := c.change(what, ledger{tag: {d}, byDigest: {d}}, http.StatusCreated, func() (answer, error) {
		return pushManifest(c.send, repository, tag.reference, manifest)
	})
	if err == nil {
		c.manifests = append(c.manifests, byDigest)
	}
	return err
}

// blob returns new bytes, mostly few, or now and then some that other clients push too.
func (c *pusher) blob() []byte {
	if c.random.IntN(8) == 0 {
		return noise(rand.New(rand.NewPCG(c.random.Uint64N(50), 1)), 50_000)
	}
	return noise(c.random, 1+c.random.IntN(1<<(8+c.random.IntN(13))))
}

func (c *pusher) pushBlob(repository string, blob []byte) error {
	d := digest.FromBytes(blob)
	method := pushMethods[c.random.IntN(len(pushMethods))]
	return c.change(method, ledger{{repository, "blobs", d.String()}: {d}}, http.StatusCreated, func() (answer, error) {
		return pushBlob(c.send, repository, method, blob)
	})
}

// mount mounts a blob from one repository into the other one.
func (c *pusher) mount(from string, blob []byte) error {
	d := digest.FromBytes(blob)
	to := c.repositories[0]
	if to == from {
		to = c.repositories[1]
	}
	return c.change("mount", ledger{{to, "blobs", d.String()}: {d}}, http.StatusCreated, func() (answer, error) {
		return c.send(http.MethodPost, "/v2/"+to+"/blobs/uploads/?mount="+d.String()+"&from="+from, nil, nil)
	})
}

// remove deletes a blob that no manifest names, a tag, or a manifest with its tags.
func (c *pusher) remove() error {
	switch c.random.IntN(3) {
	case 0:
		blob := noise(c.random, 2000)
		if err := c.pushBlob(c.repositories[0], blob); err != nil {
			return err
		}
		return c.delete("delete blob", place{c.repositories[0], "blobs", digest.FromBytes(blob).String()})
	case 1:
		for p, d := range c.ledger {
			if p.kind == "manifests" && strings.HasPrefix(p.reference, "tag") && d[0] != absent {
				return c.delete("delete tag", p)
			}
		}
	default:
		if len(c.manifests) == 0 {
			return nil
		}
		i := c.random.IntN(len(c.manifests))
		manifest := c.manifests[i]
		c.manifests = slices.Delete(c.manifests, i, i+1)
		if c.ledger[manifest][0] == absent {
			return nil
		}
		var tags []place
		for p, d := range c.ledger {
			if p.repository == manifest.repository && d[0].String() == manifest.reference && p != manifest {
				tags = append(tags, p)
			}
		}
		return c.delete("delete manifest", manifest, tags...)
	}
	return nil
}

// delete deletes what is at a place, with which the others go too.
func (c *pusher) delete(what string, p place, others ...place) error {
	changes := ledger{p: {absent}}
	for _, other := range others {
		changes[other] = []digest.Digest{absent}
	}
	return c.change(what, changes, http.StatusAccepted, func() (answer, error) {
		return c.send(http.MethodDelete, p.path(), nil, nil)
	})
}
