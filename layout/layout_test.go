package layout_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/layout"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// open returns a registry in a folder of its own.
func open(t *testing.T) (*storage.Registry, string) {
	t.Helper()
	dir := t.TempDir()
	blobs, err := filesystem.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	database, err := sqlite.Open(t.Context(), filepath.Join(dir, "registry.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := storage.New(blobs, database)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, dir
}

// writer writes a layout as other tools do.
type writer struct {
	t     *testing.T
	dir   string
	index imagespec.Index
}

func newLayout(t *testing.T, dir string) *writer {
	t.Helper()
	w := &writer{t: t, dir: dir, index: imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}}
	w.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return w
}

func (w *writer) file(name string, content []byte) {
	w.t.Helper()
	name = filepath.Join(w.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) blob(content []byte) digest.Digest {
	w.t.Helper()
	d := digest.FromBytes(content)
	w.file("blobs/sha256/"+d.Encoded(), content)
	return d
}

func (w *writer) blobFile(d digest.Digest) string {
	return filepath.Join(w.dir, "blobs", "sha256", d.Encoded())
}

// manifest writes a manifest, and lists it under tags; with "" without one.
func (w *writer) manifest(mediaType string, document any, tags ...string) digest.Digest {
	w.t.Helper()
	content, err := json.Marshal(document)
	if err != nil {
		w.t.Fatal(err)
	}
	d := w.blob(content)
	for _, tag := range tags {
		desc := imagespec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
		if tag != "" {
			desc.Annotations = map[string]string{imagespec.AnnotationRefName: tag}
		}
		w.index.Manifests = append(w.index.Manifests, desc)
	}
	return d
}

func (w *writer) image(layer string, tags ...string) digest.Digest {
	w.t.Helper()
	return w.imageOf(w.blob([]byte(layer)), nil, tags...)
}

func (w *writer) imageOf(layer digest.Digest, subject *imagespec.Descriptor, tags ...string) digest.Digest {
	w.t.Helper()
	return w.manifest(imagespec.MediaTypeImageManifest, imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest,
		Config:  imagespec.Descriptor{MediaType: imagespec.MediaTypeImageConfig, Digest: w.blob([]byte("{}")), Size: 2},
		Layers:  []imagespec.Descriptor{{MediaType: imagespec.MediaTypeImageLayer, Digest: layer, Size: 1}},
		Subject: subject,
	}, tags...)
}

func (w *writer) indexOf(tag string, children ...digest.Digest) digest.Digest {
	w.t.Helper()
	x := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex}
	for _, child := range children {
		x.Manifests = append(x.Manifests, imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Digest: child, Size: 1})
	}
	if tag == "" {
		return w.manifest(imagespec.MediaTypeImageIndex, x)
	}
	return w.manifest(imagespec.MediaTypeImageIndex, x, tag)
}

func (w *writer) close() {
	w.t.Helper()
	content, err := json.Marshal(w.index)
	if err != nil {
		w.t.Fatal(err)
	}
	w.file("index.json", content)
}

// told collects what is reported.
type told struct {
	mu    sync.Mutex
	lines string
}

func (l *told) report(p storage.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.Line != "" {
		l.lines += p.Line + "\n"
	}
}

// contents are all tags of a registry with what they name, once all that they consist of
// was found to be there and right.
func contents(t *testing.T, r *storage.Registry) []string {
	t.Helper()
	repositories, err := r.Repositories(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, repository := range repositories {
		tags, err := r.Tags(t.Context(), repository, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range tags {
			d := check(t, r, repository, storage.Reference{Tag: tag})
			all = append(all, repository+":"+tag+" "+d.String())
		}
	}
	return all
}

func check(t *testing.T, r *storage.Registry, repository string, ref storage.Reference) digest.Digest {
	t.Helper()
	m, err := r.Manifest(t.Context(), repository, ref)
	if err != nil {
		t.Fatalf("%s %s: %v", repository, ref, err)
	}
	parsed, err := storage.ParseManifest(m.MediaType, m.Content, digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range parsed.Required {
		blob, _, err := r.OpenBlob(t.Context(), repository, d)
		if err != nil {
			t.Errorf("%s %s: %v", repository, ref, err)
			continue
		}
		content, err := io.ReadAll(blob)
		if err != nil || digest.FromBytes(content) != d {
			t.Errorf("%s has other bytes, %v", d, err)
		}
		blob.Close()
	}
	for _, child := range parsed.Children {
		check(t, r, repository, storage.Reference{Digest: child})
	}
	return m.Digest
}

func TestALayoutIsImported(t *testing.T) {
	t.Parallel()
	for _, link := range []bool{false, true} {
		w := newLayout(t, filepath.Join(t.TempDir(), "app"))
		child, other := w.image("amd64", ""), w.image("arm64")
		all := w.indexOf("v1", child, other)
		w.imageOf(w.blob([]byte("signature")), &imagespec.Descriptor{MediaType: imagespec.MediaTypeImageIndex, Digest: all, Size: 1}, "")
		image := w.image("amd64", "docker.io/library/app:v2", "v3", "not a tag!")
		w.close()
		r, dir := open(t)
		var l told
		summary, err := layout.Import(t.Context(), r, w.dir, layout.ImportOptions{Prefix: "team/app", Link: link, Report: l.report})
		if !errors.Is(err, layout.ErrProblems) || summary.Problems != 1 || !strings.Contains(l.lines, "not a tag!") {
			t.Errorf("%+v, %v, %q", summary, err, l.lines)
		}
		want := []string{"team/app:v1 " + all.String(), "team/app:v2 " + image.String(), "team/app:v3 " + image.String()}
		if got := contents(t, r); !slices.Equal(got, want) {
			t.Errorf("imported %q, want %q", got, want)
		}
		if referrers, err := r.Referrers(t.Context(), "team/app", all, "", "", 10); err != nil || len(referrers) != 1 {
			t.Errorf("%d referrers, %v", len(referrers), err)
		}
		if summary.Blobs != 4 || summary.Tags != 3 || summary.Manifests != 4 {
			t.Errorf("%+v", summary)
		}
		source, err := os.Stat(w.blobFile(digest.FromString("amd64")))
		if err != nil {
			t.Fatal(err)
		}
		hex := digest.FromString("amd64").Encoded()
		stored, err := os.Stat(filepath.Join(dir, "blobs", "sha256", hex[:2], hex))
		if err != nil {
			t.Fatal(err)
		}
		if os.SameFile(source, stored) != link || (summary.Linked == 4) != link {
			t.Errorf("link is %t, the file is linked: %t; %+v", link, os.SameFile(source, stored), summary)
		}
		again, err := layout.Import(t.Context(), r, w.dir, layout.ImportOptions{Prefix: "team/app", Link: link})
		if !errors.Is(err, layout.ErrProblems) || again.Blobs != 0 {
			t.Errorf("again: %+v, %v", again, err)
		}
	}
}

func TestTheNameOfALayoutIsItsFoldersOrThePrefix(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ folder, prefix, want string }{
		{"app", "", "app"},
		{"app", "team/other", "team/other"},
		{"App", "", ""},
		{"App", "team/app", "team/app"},
		{"app", "Team", ""},
	} {
		w := newLayout(t, filepath.Join(t.TempDir(), test.folder))
		w.image("layer", "v1")
		w.close()
		r, _ := open(t)
		var l told
		_, err := layout.Import(t.Context(), r, w.dir, layout.ImportOptions{Prefix: test.prefix, Report: l.report})
		if test.want == "" {
			if err == nil || !strings.Contains(l.lines, "--prefix") {
				t.Errorf("%+v: %v, %q", test, err, l.lines)
			}
			continue
		}
		if got := contents(t, r); err != nil || len(got) != 1 || !strings.HasPrefix(got[0], test.want+":v1 ") {
			t.Errorf("%+v: %q, %v", test, got, err)
		}
	}
}

// zotRoot writes what zot stores, with blobs that repositories share.
func zotRoot(t *testing.T) (root string, names []string) {
	t.Helper()
	root = t.TempDir()
	names = []string{"blumeops/api", "blumeops/api/worker", "docker.io/library/debian", "single"}
	for i, name := range names {
		w := newLayout(t, filepath.Join(root, filepath.FromSlash(name)))
		w.image("shared", "latest")
		w.image(fmt.Sprint("layer ", i), "v1")
		if name == "blumeops/api/worker" {
			shared := w.blobFile(digest.FromString("shared"))
			if err := os.Remove(shared); err != nil {
				t.Fatal(err)
			}
			if err := os.Link(filepath.Join(root, "blumeops", "api", "blobs", "sha256", filepath.Base(shared)), shared); err != nil {
				t.Fatal(err)
			}
		}
		w.close()
	}
	for name, content := range map[string]string{
		"cache.db": "bolt", "_trivy/db/metadata.json": "{}", "_sessions/x": "", "blumeops/api/.uploads/1": "half", ".sync/docker.io/x/index.json": "{}",
	} {
		(&writer{t: t, dir: root}).file(name, []byte(content))
	}
	return root, names
}

// zotKeys writes API keys as zot does.
func zotKeys(t *testing.T, root string, users map[string]string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(root, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte("UserData"))
		if err != nil {
			return err
		}
		for user, content := range users {
			if err := bucket.Put([]byte(user), []byte(content)); err != nil {
				return err
			}
		}
		_, err = tx.CreateBucket([]byte("UserAPIKeys"))
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func TestAZotRootIsImported(t *testing.T) {
	t.Parallel()
	root, names := zotRoot(t)
	later := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
	zotKeys(t, root, map[string]string{
		"zot-ci": fmt.Sprintf(`{"StarredRepos":null,"Groups":["artifact-workloads"],"APIKeys":{
			%q:{"createdAt":"2026-01-02T03:04:05Z","expirationDate":%q,"isExpired":false,"creatorUa":"","generatedBy":"manual","lastUsed":"0001-01-01T00:00:00Z","label":"ci","scopes":[""],"uuid":"f7f1d4c2-6a0e-4a1e-8f0e-3b0c6f6a2d11"},
			%q:{"createdAt":"2026-01-02T03:04:05Z","expirationDate":"0001-01-01T00:00:00Z","label":"for ever","scopes":["repo1"],"uuid":"x"},
			%q:{"createdAt":"2020-01-02T03:04:05Z","expirationDate":"2020-02-02T03:04:05Z","label":"old","uuid":"f7f1d4c2-6a0e-4a1e-8f0e-3b0c6f6a2d12"}}}`,
			hashOf("one"), later.Format(time.RFC3339), hashOf("two"), hashOf("three")),
		"nobody": `{"Groups":null,"APIKeys":null}`,
	})
	r, _ := open(t)
	for i := range 2 { // the second time all is there
		summary, err := layout.Import(t.Context(), r, root, layout.ImportOptions{Link: true, MaxKeyLifetime: time.Hour})
		want := layout.Summary{Repositories: 4, Tags: 8, Manifests: 8}
		if i == 0 {
			want.Blobs, want.Linked, want.Bytes, want.Keys = 6, 6, 2+6+4*7, 2
		}
		if err != nil || summary != want {
			t.Errorf("%+v, %v, want %+v", summary, err, want)
		}
	}
	got := contents(t, r)
	if len(got) != 2*len(names) {
		t.Errorf("imported %q", got)
	}
	if copied, err := r.CopiedBytes(t.Context()); err != nil || copied != 7 {
		t.Errorf("%d bytes are of copies alone, %v, want those of debian's own layer", copied, err)
	}
	if at, err := r.TagConfirmed(t.Context(), "docker.io/library/debian", "v1"); err != nil || at.After(time.Unix(1, 0)) {
		t.Errorf("a tag of a copy counts as confirmed at %v, %v", at, err)
	}
	for secret, lasts := range map[string]time.Time{"one": later, "two": time.Now().Add(time.Hour)} {
		hash, err := authn.HashKey("zak_" + secret)
		if err != nil {
			t.Fatal(err)
		}
		key, err := r.Accounts().KeyByHash(t.Context(), hash)
		if err != nil || key.Owner != "zot-ci" || !slices.Equal(key.Groups, []string{"artifact-workloads"}) || key.Expires.Sub(lasts).Abs() > time.Minute {
			t.Errorf("zak_%s: %+v, %v", secret, key, err)
		}
	}
	hash, _ := authn.HashKey("zak_three")
	if _, err := r.Accounts().KeyByHash(t.Context(), hash); !errors.Is(err, storage.ErrKeyUnknown) {
		t.Errorf("a key that has expired: %v", err)
	}
}

func TestKeysOfARunningZotAreAProblemAndNothingElse(t *testing.T) {
	t.Parallel()
	root, _ := zotRoot(t)
	db, err := bbolt.Open(filepath.Join(root, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, _ := open(t)
	var l told
	summary, err := layout.Import(t.Context(), r, root, layout.ImportOptions{Report: l.report})
	if !errors.Is(err, layout.ErrProblems) || summary.Problems != 1 || summary.Tags != 8 || !strings.Contains(l.lines, "stop it first") {
		t.Errorf("%+v, %v, %q", summary, err, l.lines)
	}
}

func TestWhatIsWrongIsToldAndTheRestImported(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(w *writer, layer digest.Digest) error{
		"a blob is missing":   func(w *writer, layer digest.Digest) error { return os.Remove(w.blobFile(layer)) },
		"a blob is cut short": func(w *writer, layer digest.Digest) error { return os.Truncate(w.blobFile(layer), 3) },
		"a blob is another": func(w *writer, layer digest.Digest) error {
			return os.WriteFile(w.blobFile(layer), []byte("evil"), 0o600)
		},
		"a blob is a folder": func(w *writer, layer digest.Digest) error {
			os.Remove(w.blobFile(layer))
			return os.Mkdir(w.blobFile(layer), 0o755)
		},
		"a blob is a link": func(w *writer, layer digest.Digest) error {
			os.Remove(w.blobFile(layer))
			return os.Symlink(secret, w.blobFile(layer))
		},
		"a manifest is cut": func(w *writer, _ digest.Digest) error {
			return os.Truncate(w.blobFile(w.index.Manifests[0].Digest), 10)
		},
		"a manifest is missing": func(w *writer, _ digest.Digest) error { return os.Remove(w.blobFile(w.index.Manifests[0].Digest)) },
		"a digest leads outside": func(w *writer, _ digest.Digest) error {
			w.index.Manifests[0].Digest = "sha256:../../../secret"
			return nil
		},
		"an unknown algorithm": func(w *writer, _ digest.Digest) error {
			w.index.Manifests[0].Digest = "md5:0123456789abcdef0123456789abcdef"
			return nil
		},
		"another media type": func(w *writer, _ digest.Digest) error { w.index.Manifests[0].MediaType = "text/html"; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, link := range []bool{false, true} {
				w := newLayout(t, filepath.Join(t.TempDir(), "app"))
				w.image("layer that is spoilt", "bad")
				good := w.image("right", "good")
				if err := spoil(w, digest.FromString("layer that is spoilt")); err != nil {
					t.Fatal(err)
				}
				w.close()
				r, dir := open(t)
				var l told
				summary, err := layout.Import(t.Context(), r, w.dir, layout.ImportOptions{Link: link, Report: l.report})
				if !errors.Is(err, layout.ErrProblems) || summary.Problems != 1 || strings.Count(l.lines, "\n") != 1 {
					t.Errorf("%+v, %v, %q", summary, err, l.lines)
				}
				if got := contents(t, r); !slices.Equal(got, []string{"app:good " + good.String()}) {
					t.Errorf("imported %q", got)
				}
				if left, err := filepath.Glob(filepath.Join(dir, "uploads", "*")); err != nil || len(left) > 0 {
					t.Errorf("left in uploads: %q, %v", left, err)
				}
			}
		})
	}
}

func TestFoldersThatAreNoLayoutsAreRefused(t *testing.T) {
	t.Parallel()
	r, _ := open(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{t.TempDir(), file, filepath.Join(t.TempDir(), "absent")} {
		if _, err := layout.Import(t.Context(), r, folder, layout.ImportOptions{}); err == nil {
			t.Errorf("%s was imported", folder)
		}
	}
	for _, index := range []string{"", "{", `{"manifests":[]} and more`, `[]`} {
		w := newLayout(t, filepath.Join(t.TempDir(), "app"))
		w.file("index.json", []byte(index))
		if summary, err := layout.Import(t.Context(), r, w.dir, layout.ImportOptions{}); err == nil || summary.Problems != 1 {
			t.Errorf("%q: %+v, %v", index, summary, err)
		}
	}
}

func TestTagsThatNameSomethingElseHereStay(t *testing.T) {
	t.Parallel()
	w := newLayout(t, filepath.Join(t.TempDir(), "app"))
	w.image("old", "v1")
	w.close()
	newer := newLayout(t, filepath.Join(t.TempDir(), "app"))
	d := newer.image("new", "v1")
	newer.close()
	r, _ := open(t)
	if _, err := layout.Import(t.Context(), r, newer.dir, layout.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	var l told
	if _, err := layout.Import(t.Context(), r, w.dir, layout.ImportOptions{Report: l.report}); !errors.Is(err, layout.ErrProblems) || !strings.Contains(l.lines, "app:v1") {
		t.Errorf("%v, %q", err, l.lines)
	}
	if got := contents(t, r); !slices.Equal(got, []string{"app:v1 " + d.String()}) {
		t.Errorf("there is %q", got)
	}
}

func TestAnInterruptedImportIsRunAgain(t *testing.T) {
	t.Parallel()
	root, names := zotRoot(t)
	r, _ := open(t)
	for i := range 12 {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		n := 0
		_, err := layout.Import(ctx, r, root, layout.ImportOptions{Link: i%2 == 0, Report: func(storage.Progress) {
			mu.Lock()
			defer mu.Unlock()
			if n++; n > i {
				cancel()
			}
		}})
		if err != nil && ctx.Err() == nil {
			t.Errorf("after %d steps: %v", i, err)
		}
		cancel()
	}
	if _, err := layout.Import(t.Context(), r, root, layout.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, r); len(got) != 2*len(names) {
		t.Errorf("imported %q", got)
	}
	if _, err := r.Verify(t.Context(), storage.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

func TestWhatIsExportedIsImportedAgain(t *testing.T) {
	t.Parallel()
	root, names := zotRoot(t)
	w := newLayout(t, filepath.Join(root, "family"))
	all := w.indexOf("v1", w.image("amd64"), w.indexOf("", w.image("arm64")))
	w.imageOf(w.blob([]byte("signature")), &imagespec.Descriptor{MediaType: imagespec.MediaTypeImageIndex, Digest: all, Size: 1}, "")
	w.close()
	r, _ := open(t)
	if _, err := layout.Import(t.Context(), r, root, layout.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	var selections []layout.Selection
	for _, name := range append(names, "family") {
		selections = append(selections, layout.Selection{Repository: name})
	}
	folder := filepath.Join(t.TempDir(), "export")
	for range 2 { // the second time all is there
		if summary, err := layout.Export(t.Context(), r, selections, folder, layout.ExportOptions{}); err != nil || summary.Tags != 9 {
			t.Fatalf("%+v, %v", summary, err)
		}
	}
	other, _ := open(t)
	if _, err := layout.Import(t.Context(), other, folder, layout.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := contents(t, other), contents(t, r); !slices.Equal(got, want) {
		t.Errorf("there is\n%q, want\n%q", got, want)
	}
	if referrers, err := other.Referrers(t.Context(), "family", all, "", "", 10); err != nil || len(referrers) != 1 {
		t.Errorf("%d referrers, %v", len(referrers), err)
	}
	// One repository is the layout itself.
	one := filepath.Join(t.TempDir(), "one")
	if _, err := layout.Export(t.Context(), r, []layout.Selection{{Repository: "single", Reference: "v1"}}, one, layout.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	third, _ := open(t)
	if _, err := layout.Import(t.Context(), third, one, layout.ImportOptions{Prefix: "x"}); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, third); len(got) != 1 || !strings.HasPrefix(got[0], "x:v1 ") {
		t.Errorf("there is %q", got)
	}
	if _, err := layout.Export(t.Context(), r, []layout.Selection{{Repository: "absent"}}, one, layout.ExportOptions{}); !errors.Is(err, storage.ErrNameUnknown) {
		t.Errorf("exporting what is not there: %v", err)
	}
}

func TestIndexesThatAreTooDeepAreRefused(t *testing.T) {
	t.Parallel()
	w := newLayout(t, filepath.Join(t.TempDir(), "app"))
	inner := w.image("layer")
	for range 40 {
		inner = w.indexOf("", inner)
	}
	w.indexOf("deep", inner)
	good := w.image("right", "good")
	w.close()
	r, _ := open(t)
	if summary, err := layout.Import(t.Context(), r, w.dir, layout.ImportOptions{}); !errors.Is(err, layout.ErrProblems) || summary.Problems != 1 {
		t.Errorf("%+v, %v", summary, err)
	}
	if m, err := r.Manifest(t.Context(), "app", storage.Reference{Tag: "good"}); err != nil || m.Digest != good {
		t.Error(err)
	}
}
