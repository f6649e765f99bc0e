//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// startOnSmallDisk returns a registry whose storage is a disk of its own.
func startOnSmallDisk(t *testing.T, size int64) *process {
	t.Helper()
	return startWithSmallDisk(t, size, registryCaddyfile)
}

// startWithSmallDisk is startOnSmallDisk with a configuration.
func startWithSmallDisk(t *testing.T, size int64, caddyfile string) *process {
	t.Helper()
	disk := t.TempDir()
	err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", size))
	needs(t, "the right to mount a small disk", err)
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Errorf("unmounting %s: %v", disk, err)
		}
	})
	p := newProcess(t, caddyfile)
	p.storage = filepath.Join(disk, "storage")
	p.start()
	return p
}

// room returns how many bytes can still be written to a server's disk.
func (p *process) room() int64 {
	p.t.Helper()
	var stat syscall.Statfs_t
	if err := syscall.Statfs(p.storage, &stat); err != nil {
		p.t.Fatal(err)
	}
	return int64(stat.Bavail) * stat.Bsize
}

// fill takes all room that is left on a server's disk until free is called.
func (p *process) fill() (free func()) {
	p.t.Helper()
	name := filepath.Join(filepath.Dir(p.storage), "filler")
	f, err := os.Create(name)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	for zeros := make([]byte, 4096); err == nil; {
		_, err = f.Write(zeros)
	}
	if !errors.Is(err, syscall.ENOSPC) || p.room() != 0 {
		p.t.Fatalf("the disk is not full but has %d bytes: %v", p.room(), err)
	}
	return func() {
		p.t.Helper()
		if err := os.Remove(name); err != nil {
			p.t.Fatal(err)
		}
	}
}

// blobFiles returns how many files blobs take.
func (p *process) blobFiles() int {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.storage, "blobs", "*", "*", "*"))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(files)
}

// checkFull checks that an answer says that the storage is full, as clients show it.
func checkFull(t *testing.T, a answer) {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Fatalf("%v: %v", a, err)
	}
	if a.status != http.StatusInsufficientStorage || len(body.Errors) != 1 || body.Errors[0].Code != "DENIED" || body.Errors[0].Message != "storage is full" {
		t.Fatalf("answer %v, expected 507 DENIED: storage is full", a)
	}
	if contentType := a.header.Get("Content-Type"); contentType != "application/json" {
		t.Errorf("Content-Type of the refusal is %q", contentType)
	}
}

// TestTooLargeBlobLeavesNothing pushes more than the disk holds. The push is refused,
// takes no room afterwards, and disturbs nobody who pulls.
func TestTooLargeBlobLeavesNothing(t *testing.T) {
	random := randomSource(t)
	p := startOnSmallDisk(t, 48<<20)
	kept := noise(random, 1<<20)
	manifest := mustPush(t, p.client(), "kept/image", "latest", kept)
	stop := keepPulling(t, p, "kept/image", kept, manifest)
	before := p.room()
	tooLarge := noise(random, int(before)+(8<<20))
	for _, method := range pushMethods {
		t.Run(method, func(t *testing.T) {
			send := p.client()
			a, err := pushBlob(send, "large/image", method, tooLarge)
			if err != nil {
				t.Fatal(err)
			}
			checkFull(t, a)
			if files := p.uploadFiles(); len(files) > 0 {
				t.Errorf("files of uploads stay: %v", files)
			}
			if uploads := p.stats()["uploads"]; uploads != 0 {
				t.Errorf("%d uploads stay", uploads)
			}
			expect(t, http.StatusNotFound)(send(http.MethodGet, blobPath("large/image", tooLarge), nil, nil))
			// Facts of uploads come and go in the database's log, which keeps its size.
			if after := p.room(); after < before-(1<<20) {
				t.Errorf("room for %d bytes, before the push it was %d", after, before)
			}
		})
	}
	stop()
	mustPush(t, p.client(), "large/image", "latest", tooLarge[:8<<20])
}

// keepPulling pulls an image again and again until stop is called, which fails the test
// if that ever failed.
func keepPulling(t *testing.T, p *process, repository string, blob, manifest []byte) (stop func()) {
	t.Helper()
	send := p.client()
	done, result := make(chan struct{}), make(chan error)
	go func() {
		for pulls := 0; ; pulls++ {
			select {
			case <-done:
				if pulls == 0 {
					result <- errors.New("nothing was pulled")
				}
				result <- nil
				return
			default:
			}
			for path, content := range map[string][]byte{blobPath(repository, blob): blob, "/v2/" + repository + "/manifests/latest": manifest} {
				a, err := send(http.MethodGet, path, nil, nil)
				if err == nil && (a.status != http.StatusOK || digest.FromBytes(a.body) != digest.FromBytes(content)) {
					err = fmt.Errorf("GET %s: %v", path, a)
				}
				if err != nil {
					result <- err
					return
				}
			}
		}
	}()
	return func() {
		t.Helper()
		close(done)
		if err := <-result; err != nil {
			t.Errorf("pulling meanwhile: %v", err)
		}
	}
}

// TestFullDiskRefusesAndRecovers: with not a byte left on the disk every push is refused,
// pulls go on, and once there is room so do pushes.
func TestFullDiskRefusesAndRecovers(t *testing.T) {
	random := randomSource(t)
	p := startOnSmallDisk(t, 48<<20)
	send := p.client()
	kept := noise(random, 1<<20)
	keptManifest := mustPush(t, send, "kept/image", "latest", kept)
	stop := keepPulling(t, p, "kept/image", kept, keptManifest)
	free := p.fill()

	blob := noise(random, 100_000)
	for _, method := range pushMethods {
		a, err := pushBlob(send, "new/image", method, blob)
		if err != nil {
			t.Fatal(err)
		}
		checkFull(t, a)
	}

	// The database's log may have room for some facts, which then are as durable as others.
	acknowledged := make(map[string][]byte)
	refused := 0
	for i := range 6 {
		tag := fmt.Sprintf("tag%d", i)
		big := imageOf(map[string]string{"padding": strings.Repeat(tag, 600_000)}, kept)
		a, err := pushManifest(send, "kept/image", tag, big)
		switch {
		case err != nil:
			t.Fatal(err)
		case a.status == http.StatusCreated:
			acknowledged[tag] = big
			continue
		}
		checkFull(t, a)
		refused++
		for _, reference := range []string{tag, digest.FromBytes(big).String()} {
			expect(t, http.StatusNotFound)(send(http.MethodGet, "/v2/kept/image/manifests/"+reference, nil, nil))
		}
	}
	t.Logf("%d manifests acknowledged and %d refused on the full disk", len(acknowledged), refused)
	if refused == 0 {
		t.Error("no manifest was refused on a full disk")
	}
	mustRead(t, send, "/v2/kept/image/manifests/latest", keptManifest)

	free()
	for _, method := range pushMethods {
		blob[0]++
		expect(t, http.StatusCreated)(pushBlob(send, "new/image", method, blob))
		mustRead(t, send, blobPath("new/image", blob), blob)
	}
	mustPush(t, send, "new/image", "latest", blob)
	stop()
	p.kill()
	p.start()
	for tag, manifest := range acknowledged {
		mustRead(t, send, "/v2/kept/image/manifests/"+tag, manifest)
	}
	mustRead(t, send, "/v2/new/image/manifests/latest", imageOf(nil, blob))
	mustRead(t, send, "/v2/kept/image/manifests/latest", keptManifest)
}

// TestBlobWithoutRoomForItsFactsLeavesNothing pushes blobs that take the last byte, so
// that what would make them part of a repository cannot be written.
func TestBlobWithoutRoomForItsFactsLeavesNothing(t *testing.T) {
	random := randomSource(t)
	for _, method := range pushMethods {
		t.Run(method, func(t *testing.T) {
			p := startOnSmallDisk(t, 16<<20)
			send := p.client()
			mustPush(t, send, "kept/image", "latest", []byte("kept"))
			upload := expect(t, http.StatusAccepted)(send(http.MethodPost, "/v2/new/image/blobs/uploads/", nil, nil)).header.Get("Location")
			blob := noise(random, int(p.room()))
			query := "digest=" + digest.FromBytes(blob).String()
			var a answer
			var err error
			switch method {
			case "single POST":
				a, err = send(http.MethodPost, "/v2/new/image/blobs/uploads/?"+query, nil, blob)
			case "POST and PUT":
				a, err = send(http.MethodPut, withQuery(upload, query), nil, blob)
			case "chunks":
				a, err = send(http.MethodPatch, upload, nil, blob)
			}
			if err != nil {
				t.Fatal(err)
			}
			checkFull(t, a)
			if files := p.uploadFiles(); len(files) > 0 {
				t.Errorf("files of uploads stay: %v", files)
			}
			if n := p.blobFiles(); n != 1 {
				t.Errorf("%d blobs have files, expected that of the image only", n)
			}
			mustPush(t, send, "new/image", "latest", blob[:8<<20])
		})
	}
}
