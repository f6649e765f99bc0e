package backup_test

import (
	"context"
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

	"github.com/eblume/caddy-registry/backup"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

const hub = "docker.io"

// registry is one in a folder.
type registry struct {
	*storage.Registry
	t   *testing.T
	dir string
}

func open(t *testing.T, dir string) *registry {
	t.Helper()
	blobs, err := filesystem.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	database, err := sqlite.Open(t.Context(), filepath.Join(dir, "registry.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := storage.New(blobs, database)
	t.Cleanup(func() { r.Close() }) // tests close it too
	return &registry{r, t, dir}
}

func (r *registry) pushBlob(repository, content string) digest.Digest {
	r.t.Helper()
	d := digest.FromString(content)
	if err := r.PushBlob(context.Background(), repository, strings.NewReader(content), d); err != nil {
		r.t.Error(err)
	}
	return d
}

func imageOf(t *testing.T, layer digest.Digest) *storage.Manifest {
	t.Helper()
	content := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":1}]}`, digest.FromString("{}"), layer)
	m, err := storage.ParseManifest("application/vnd.oci.image.manifest.v1+json", []byte(content), digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// push pushes an image of one layer.
func (r *registry) push(repository, layer, tag string) {
	r.t.Helper()
	r.pushBlob(repository, "{}")
	m := imageOf(r.t, r.pushBlob(repository, layer))
	if _, err := r.PutManifest(context.Background(), repository, m, storage.Put{Tags: []string{tag}}); err != nil {
		r.t.Error(err)
	}
}

// cache makes a blob one of a copy.
func (r *registry) cache(repository, content string) digest.Digest {
	r.t.Helper()
	d := digest.FromString(content)
	fetch, err := r.BeginFetch(r.t.Context(), hub, d)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := fetch.ReadFrom(strings.NewReader(content)); err != nil {
		r.t.Fatal(err)
	}
	if err := fetch.Commit(r.t.Context(), hub, []string{repository}); err != nil {
		r.t.Fatal(err)
	}
	return d
}

// contents are all tags, what they name, and that its blobs are there and right.
func (r *registry) contents() []string {
	r.t.Helper()
	ctx := r.t.Context()
	repositories, err := r.Repositories(ctx, "", 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []string
	for _, repository := range repositories {
		tags, err := r.DescribeTags(ctx, repository, "", 10_000)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, tag := range tags {
			m, err := r.Manifest(ctx, repository, storage.Reference{Tag: tag.Name})
			if err != nil {
				r.t.Fatal(err)
			}
			parsed, err := storage.ParseManifest(m.MediaType, m.Content, digest.SHA256)
			if err != nil {
				r.t.Fatal(err)
			}
			for _, d := range parsed.Required {
				if err := r.checkBlob(repository, d); err != nil {
					r.t.Errorf("%s:%s: %v", repository, tag.Name, err)
				}
			}
			all = append(all, fmt.Sprint(repository, ":", tag.Name, " ", tag.Digest, " ", tag.Since.Unix()))
		}
	}
	return all
}

func (r *registry) checkBlob(repository string, d digest.Digest) error {
	blob, _, err := r.OpenBlob(r.t.Context(), repository, d)
	if err != nil {
		return err
	}
	defer blob.Close()
	content, err := io.ReadAll(blob)
	if err == nil && digest.FromBytes(content) != d {
		err = fmt.Errorf("%s has other bytes", d)
	}
	return err
}

// spoil has a disk change the bytes of a blob.
func (r *registry) spoil(content string) {
	r.t.Helper()
	d := digest.FromString(content)
	if err := os.WriteFile(filepath.Join(r.dir, "blobs", "sha256", d.Encoded()[:2], d.Encoded()), []byte("wrong"), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *registry) backUp(folder string) backup.Summary {
	r.t.Helper()
	summary, err := backup.Make(r.t.Context(), r.Registry, folder, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return summary
}

// restored returns a new registry with what a backup has.
func restored(t *testing.T, folder string) *registry {
	t.Helper()
	r := open(t, t.TempDir())
	if _, err := backup.Restore(t.Context(), r.Registry, folder, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestARestoredRegistryHasWhatWasBackedUp(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	for i := range 20 {
		r.push(fmt.Sprint("team/", i%4), fmt.Sprint("layer ", i%7), fmt.Sprint("v", i))
	}
	layer := r.cache("docker.io/library/x", "cached")
	r.cache("docker.io/library/x", "{}")
	if err := r.PutCached(t.Context(), hub, "docker.io/library/x", imageOf(t, layer), "latest"); err != nil {
		t.Fatal(err)
	}
	key := storage.APIKey{ID: "6f9619ff-8b86-d011-b42d-00c04fc964ff", Owner: "ci", Groups: []string{"artifact-workloads"}, Created: time.Now(), Expires: time.Now().Add(time.Hour)}
	hash := [32]byte{1, 2, 3}
	if err := r.Accounts().AddKey(t.Context(), key, hash); err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteManifest(t.Context(), "team/0", imageOf(t, digest.FromString("layer 0")).Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := r.StartUpload(t.Context(), "team/0", digest.SHA256); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "new", "folder")
	first := r.backUp(folder)
	if first.Blobs != 9 || first.Copied != 9 {
		t.Errorf("the first backup: %+v", first)
	}
	want := r.contents()
	if again := r.backUp(folder); again.Copied != 0 || again.Blobs != 9 {
		t.Errorf("the same again: %+v", again)
	}
	copied := restored(t, folder)
	if got := copied.contents(); !slices.Equal(got, want) {
		t.Errorf("restored:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got, err := copied.Accounts().KeyByHash(t.Context(), hash); err != nil || got.Owner != "ci" {
		t.Errorf("the API key: %+v, %v", got, err)
	}
	if stats, err := copied.Stats(t.Context()); err != nil || stats.Uploads != 0 {
		t.Errorf("%+v, %v", stats, err)
	}
	// What was deleted can be restored there too, and what is a copy is one.
	if _, err := copied.RestoreTag(t.Context(), "team/0", "v0", imageOf(t, digest.FromString("layer 0")).Digest); err != nil {
		t.Error(err)
	}
	if n, err := copied.CopiedBytes(t.Context()); err != nil || n != int64(len("cached")) {
		t.Errorf("%d bytes are cached, %v", n, err)
	}
	if _, err := copied.Verify(t.Context(), storage.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	copied.push("team/new", "layer", "v1")
}

// TestABackupIsAStorageDirectory starts a registry on the backup itself.
func TestABackupIsAStorageDirectory(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	r.push("a", "layer", "v1")
	folder := filepath.Join(t.TempDir(), "backup")
	r.backUp(folder)
	copied := open(t, folder)
	if got := copied.contents(); !slices.Equal(got, r.contents()) {
		t.Errorf("it has %q", got)
	}
}

func TestASecondBackupCopiesWhatIsNewAndDropsWhatIsGone(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	r.push("a", "one", "v1")
	r.push("a", "two", "v2")
	folder := filepath.Join(t.TempDir(), "backup")
	r.backUp(folder)
	r.push("a", "three", "v3")
	if err := r.DeleteRepository(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	r.push("a", "one", "v1")
	r.push("a", "four", "v4")
	time.Sleep(1100 * time.Millisecond) // a delay of nothing counts whole seconds
	if _, err := r.Collect(t.Context(), storage.CollectOptions{UploadExpiry: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if got := r.backUp(folder); got.Copied != 1 || got.Bytes != 4 || got.Blobs != 3 {
		t.Errorf("the second backup: %+v", got)
	}
	files, err := filepath.Glob(filepath.Join(folder, "blobs", "*", "*", "*"))
	if err != nil || len(files) != 3 {
		t.Errorf("there are the files %q, %v", files, err)
	}
	if got := restored(t, folder).contents(); !slices.Equal(got, r.contents()) {
		t.Errorf("restored: %q", got)
	}
}

func TestABackupIsConsistentWhilePushesGoOn(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	r.push("team/0", "the first", "first")
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range 3 {
		clients.Go(func() {
			repository := fmt.Sprint("team/", i)
			for n := 0; ctx.Err() == nil; n++ {
				r.push(repository, fmt.Sprint("layer ", i, n), fmt.Sprint("v", n%10))
				if n%20 == 19 {
					if err := r.DeleteTag(context.Background(), repository, "v3"); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	clients.Go(func() {
		for ctx.Err() == nil {
			if _, err := r.Collect(ctx, storage.CollectOptions{Delay: 2 * time.Second, UploadExpiry: time.Hour, Untagged: 1}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	folder := filepath.Join(t.TempDir(), "backup")
	for range 4 {
		r.backUp(folder)
		copied := restored(t, folder)
		if len(copied.contents()) == 0 {
			t.Error("nothing is restored")
		}
		if _, err := copied.Verify(t.Context(), storage.VerifyOptions{}); err != nil {
			t.Error(err)
		}
	}
	stop()
	clients.Wait()
}

// TestAnInterruptedBackupLeavesTheEarlierOne stops backups and restores after any number
// of steps.
func TestAnInterruptedBackupLeavesTheEarlierOne(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	r.push("a", "first", "v1")
	folder := filepath.Join(t.TempDir(), "backup")
	r.backUp(folder)
	earlier := r.contents()
	for i := range 12 {
		r.push("a", fmt.Sprint("layer ", i), fmt.Sprint("w", i))
	}
	target := open(t, t.TempDir())
	for i := range 14 {
		interruptAfter(t, i, func(ctx context.Context, report storage.Report) error {
			_, err := backup.Make(ctx, r.Registry, folder, report)
			return err
		})
		if i < 6 {
			if got := restored(t, folder).contents(); !slices.Equal(got, earlier) {
				t.Fatalf("after %d steps of another backup there is %q", i, got)
			}
		}
	}
	r.backUp(folder)
	for i := range 10 {
		interruptAfter(t, i, func(ctx context.Context, report storage.Report) error {
			_, err := backup.Restore(ctx, target.Registry, folder, report)
			return err
		})
		if err := target.CheckEmpty(t.Context()); err != nil {
			t.Fatalf("after %d steps of a restore: %v", i, err)
		}
	}
	summary, err := backup.Restore(t.Context(), target.Registry, folder, nil)
	if err != nil || summary.Copied >= summary.Blobs {
		t.Errorf("%+v, %v: it did not go on where it was interrupted", summary, err)
	}
	if got := target.contents(); !slices.Equal(got, r.contents()) {
		t.Errorf("restored: %q", got)
	}
}

// interruptAfter runs work that is interrupted when it has told of n steps.
func interruptAfter(t *testing.T, n int, work func(context.Context, storage.Report) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	told := 0
	err := work(ctx, func(storage.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if told++; told > n {
			cancel()
		}
	})
	if err != nil && ctx.Err() == nil {
		t.Errorf("after %d steps: %v", n, err)
	}
}

func TestDamagedBlobsAreNamedAndTheRestIsCopied(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	r.push("a", "spoilt here", "v1")
	r.push("a", "spoilt there", "v2")
	r.push("a", "right", "v3")
	here, there := digest.FromString("spoilt here"), digest.FromString("spoilt there")
	r.spoil("spoilt here")
	folder := filepath.Join(t.TempDir(), "backup")
	var told string
	report := func(p storage.Progress) { told += p.Line }
	if summary, err := backup.Make(t.Context(), r.Registry, folder, report); !errors.Is(err, backup.ErrIncomplete) || summary.Problems != 1 || !strings.Contains(told, here.String()) {
		t.Errorf("backup: %+v, %v, %q", summary, err, told)
	}
	(&registry{t: t, dir: folder}).spoil("spoilt there")
	copied := open(t, t.TempDir())
	if summary, err := backup.Restore(t.Context(), copied.Registry, folder, report); !errors.Is(err, backup.ErrIncomplete) || summary.Problems != 1 || !strings.Contains(told, there.String()) {
		t.Errorf("restore: %+v, %v, %q", summary, err, told)
	}
	for d, want := range map[digest.Digest]error{here: storage.ErrBlobUnknown, there: storage.ErrBlobUnknown, digest.FromString("right"): nil} {
		if _, err := copied.StatBlob(t.Context(), "a", d); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", d, err, want)
		}
	}
	// It is healed by a push.
	copied.push("a", "spoilt here", "v1")
	copied.push("a", "spoilt there", "v2")
	if _, err := copied.Verify(t.Context(), storage.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

func TestWrongFoldersAreRefused(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	r.push("a", "layer", "v1")
	other := t.TempDir()
	file := filepath.Join(other, "file")
	if err := os.WriteFile(file, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{other, file, r.dir} {
		if _, err := backup.Make(t.Context(), r.Registry, folder, nil); err == nil {
			t.Errorf("a backup was made in %s", folder)
		}
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "something else" {
		t.Errorf("a file was changed: %q, %v", content, err)
	}
	text := t.TempDir()
	if err := os.WriteFile(filepath.Join(text, "registry.db"), []byte("a text that is no database, and long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := open(t, t.TempDir())
	for _, folder := range []string{other, file, text, t.TempDir(), filepath.Join(other, "absent")} {
		if _, err := backup.Restore(t.Context(), empty.Registry, folder, nil); err == nil {
			t.Errorf("%s was restored", folder)
		}
		if err := empty.CheckEmpty(t.Context()); err != nil {
			t.Error(err)
		}
	}
	folder := filepath.Join(t.TempDir(), "backup")
	r.backUp(folder)
	if _, err := backup.Restore(t.Context(), r.Registry, folder, nil); !errors.Is(err, storage.ErrNotEmpty) {
		t.Errorf("restoring over content: %v", err)
	}
}

// TestABackupOfANewerVersionIsRefused has a backup that has been through migrations which
// this version does not know.
func TestABackupOfANewerVersionIsRefused(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	r.push("a", "layer", "v1")
	folder := filepath.Join(t.TempDir(), "backup")
	r.backUp(folder)
	database, err := sqlite.Open(t.Context(), filepath.Join(folder, "registry.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = database.Write(t.Context(), func(tx storage.Tx) error {
		_, err := tx.Exec(`INSERT INTO goose_db_version (version_id, is_applied, tstamp) VALUES (9999, 1, '2030-01-01 00:00:00')`)
		return err
	})
	if err := errors.Join(err, database.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), open(t, t.TempDir()).Registry, folder, nil); err == nil {
		t.Error("it was restored")
	}
}
