package storage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// spoiltRegistry is a registry in a folder, whose files tests spoil.
type spoiltRegistry struct {
	*storage.Registry
	t        *testing.T
	dir      string
	database storage.Database
}

func openSpoilt(t *testing.T, dir string) *spoiltRegistry {
	t.Helper()
	blobs, database, err := openDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := storage.New(blobs, database)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return &spoiltRegistry{r, t, dir, database}
}

func (r *spoiltRegistry) push(repository, content string) digest.Digest {
	r.t.Helper()
	d := digest.FromString(content)
	if err := r.PushBlob(r.t.Context(), repository, strings.NewReader(content), d); err != nil {
		r.t.Fatal(err)
	}
	return d
}

// image pushes an image of one layer and puts it under a tag.
func (r *spoiltRegistry) image(repository, layer, tag string) (*storage.Manifest, error) {
	r.t.Helper()
	config := r.push(repository, "{}")
	return r.put(repository, config, digest.FromString(layer), tag)
}

func (r *spoiltRegistry) put(repository string, config, layer digest.Digest, tag string) (*storage.Manifest, error) {
	r.t.Helper()
	content := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":1}]}`, config, layer)
	m, err := storage.ParseManifest("application/vnd.oci.image.manifest.v1+json", []byte(content), digest.SHA256)
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = r.PutManifest(r.t.Context(), repository, m, storage.Put{Tags: []string{tag}})
	return m, err
}

func (r *spoiltRegistry) file(d digest.Digest) string {
	return filepath.Join(r.dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

func (r *spoiltRegistry) verify() (found storage.Verified, told string, err error) {
	var mu sync.Mutex
	found, err = r.Verify(r.t.Context(), storage.VerifyOptions{Report: func(p storage.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Line != "" {
			told += p.Line + "\n"
		}
	}})
	return found, told, err
}

func TestVerifyFindsWhateverIsWrongWithABlob(t *testing.T) {
	t.Parallel()
	const content = "the bytes of a layer"
	for name, spoil := range map[string]func(file string) error{
		"a flipped bit": func(file string) error {
			return os.WriteFile(file, []byte("the bytes of a laxer"), 0o600)
		},
		"cut short":      func(file string) error { return os.Truncate(file, 5) },
		"emptied":        func(file string) error { return os.Truncate(file, 0) },
		"grown":          func(file string) error { return os.WriteFile(file, []byte(content+"!"), 0o600) },
		"gone":           os.Remove,
		"another's file": func(file string) error { return os.WriteFile(file, []byte("{}"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := openSpoilt(t, t.TempDir())
			layer := r.push("team/app", content)
			r.push("other", "right")
			m, err := r.image("team/app", content, "v1")
			if err != nil {
				t.Fatal(err)
			}
			if found, told, err := r.verify(); err != nil || told != "" || found.Blobs != 3 || found.Manifests != 1 || found.Damaged != 0 || found.Bytes != int64(len(content)+2+5) {
				t.Errorf("before: %+v, %q, %v", found, told, err)
			}
			if err := spoil(r.file(layer)); err != nil {
				t.Fatal(err)
			}
			spoilt, _ := os.ReadFile(r.file(layer))
			found, told, err := r.verify()
			if !errors.Is(err, storage.ErrDamaged) || found.Damaged != 1 || !strings.Contains(told, layer.String()) || !strings.Contains(told, "team/app") {
				t.Errorf("%+v, %q, %v", found, told, err)
			}
			r.wantDamaged(m, layer)
			if name != "gone" {
				kept, err := os.ReadFile(filepath.Join(r.dir, "quarantine", "sha256", layer.Encoded()))
				if err != nil || string(kept) != string(spoilt) {
					t.Errorf("in quarantine: %q, %v", kept, err)
				}
			}
			// It is found again, also by a server that was restarted, until it is healed.
			if _, _, err := r.verify(); !errors.Is(err, storage.ErrDamaged) {
				t.Errorf("again: %v", err)
			}
			r.push("team/app", content)
			if _, err := r.image("team/app", content, "v2"); err != nil {
				t.Error(err)
			}
			if found, told, err := r.verify(); err != nil || told != "" {
				t.Errorf("healed: %+v, %q, %v", found, told, err)
			}
		})
	}
}

// wantDamaged checks that nobody is given a damaged blob, nor led to believe that it is
// there.
func (r *spoiltRegistry) wantDamaged(m *storage.Manifest, layer digest.Digest) {
	r.t.Helper()
	ctx := r.t.Context()
	if _, err := r.StatBlob(ctx, "team/app", layer); !errors.Is(err, storage.ErrBlobUnknown) || !strings.Contains(err.Error(), "push it again") {
		r.t.Errorf("StatBlob: %v", err)
	}
	if _, _, err := r.OpenBlob(ctx, "team/app", layer); !errors.Is(err, storage.ErrBlobUnknown) {
		r.t.Errorf("OpenBlob: %v", err)
	}
	if err := r.MountBlob(ctx, "elsewhere", "team/app", layer, nil); !errors.Is(err, storage.ErrBlobUnknown) {
		r.t.Errorf("MountBlob: %v", err)
	}
	if _, err := r.put("team/app", digest.FromString("{}"), layer, "v2"); !errors.Is(err, storage.ErrManifestBlobUnknown) {
		r.t.Errorf("PutManifest: %v", err)
	}
	if _, err := r.Manifest(ctx, "team/app", storage.Reference{Digest: m.Digest}); err != nil {
		r.t.Errorf("its manifest: %v", err)
	}
}

func TestVerifyServesAgainWhatAPersonPutBack(t *testing.T) {
	t.Parallel()
	r := openSpoilt(t, t.TempDir())
	layer := r.push("team/app", "right")
	if err := os.WriteFile(r.file(layer), []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.verify(); !errors.Is(err, storage.ErrDamaged) {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.file(layer), []byte("right"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, told, err := r.verify(); err != nil || found.Damaged != 0 || !strings.Contains(told, "right again") {
		t.Errorf("%+v, %q, %v", found, told, err)
	}
	if _, err := r.StatBlob(t.Context(), "team/app", layer); err != nil {
		t.Error(err)
	}
}

func TestADamagedManifestIsNotServedAndHealedByAPush(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openSpoilt(t, dir)
	r.push("team/app", "layer")
	m, err := r.image("team/app", "layer", "v1")
	if err != nil {
		t.Fatal(err)
	}
	err = r.database.Write(t.Context(), func(tx storage.Tx) error {
		_, err := tx.Exec(`UPDATE manifests SET content = $1`, []byte(`{"schemaVersion":2}`))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	found, told, err := r.verify()
	if !errors.Is(err, storage.ErrDamaged) || found.Damaged != 1 || !strings.Contains(told, "team/app@"+m.Digest.String()) {
		t.Errorf("%+v, %q, %v", found, told, err)
	}
	if got, err := r.Manifest(t.Context(), "team/app", storage.Reference{Tag: "v1"}); err == nil {
		t.Errorf("it is served: %s", got.Content)
	}
	if _, err := r.image("team/app", "layer", "v1"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Manifest(t.Context(), "team/app", storage.Reference{Tag: "v1"}); err != nil || string(got.Content) != string(m.Content) {
		t.Errorf("after it was pushed again: %v", err)
	}
	if _, _, err := r.verify(); err != nil {
		t.Error(err)
	}
}

func TestVerifyGoesOnBesideEverything(t *testing.T) {
	t.Parallel()
	r := openSpoilt(t, t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			d := r.push("a", fmt.Sprint("blob ", i%20))
			if i%3 == 0 {
				// Without a delay, collection may have come first: no image has the blob.
				if err := r.DeleteBlob(t.Context(), "a", d); err != nil && !errors.Is(err, storage.ErrBlobUnknown) {
					t.Error(err)
				}
			}
		}
	})
	others.Go(func() {
		for ctx.Err() == nil {
			if _, err := r.Collect(ctx, storage.CollectOptions{UploadExpiry: 1 << 60}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for range 50 {
		if found, told, err := r.verify(); err != nil || found.Damaged > 0 {
			t.Errorf("%+v, %q, %v", found, told, err)
		}
	}
	stop()
	others.Wait()
}

func TestVerifyIsInterruptedAndRunAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 10 {
		r := openSpoilt(t, filepath.Join(dir, fmt.Sprint(i)))
		var layers []digest.Digest
		for n := range 10 {
			d := r.push("a", fmt.Sprint("layer ", n))
			layers = append(layers, d)
			if err := os.WriteFile(r.file(d), []byte("wrong"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var told sync.Mutex
		n := 0
		_, err := r.Verify(ctx, storage.VerifyOptions{Report: func(storage.Progress) {
			told.Lock()
			defer told.Unlock()
			if n++; n > i {
				cancel()
			}
		}})
		if err == nil {
			t.Errorf("after %d steps: no error", i)
		}
		cancel()
		if found, _, err := r.verify(); !errors.Is(err, storage.ErrDamaged) || found.Damaged != 10 {
			t.Errorf("after %d steps: %+v, %v", i, found, err)
		}
		for _, d := range layers {
			if _, err := r.StatBlob(t.Context(), "a", d); !errors.Is(err, storage.ErrBlobUnknown) {
				t.Errorf("StatBlob: %v", err)
			}
		}
	}
}
