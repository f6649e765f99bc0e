package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/race"
)

// testModel runs random sequences of calls and compares what the registry says and
// holds with maps in memory that do the same. All sequences share one registry, each
// with repositories of its own.
func testModel(t *testing.T, fresh func(testing.TB) Open) {
	r := newRegistry(t, fresh)
	var sequences int
	rapid.Check(t, func(rt *rapid.T) {
		sequences++
		m := &model{
			r:            r.Registry,
			t:            t,
			prefix:       fmt.Sprintf("sequence%06d/", sequences),
			repositories: map[string]*modelRepository{},
			uploads:      map[string]*modelUpload{},
		}
		m.anyRepository = rapid.SampledFrom([]string{m.prefix + "a", m.prefix + "b", m.prefix + "a/b"})
		defer m.end()
		rt.Repeat(map[string]func(*rapid.T){
			"":                 m.check,
			"PushBlob":         m.pushBlob,
			"MountBlob":        m.mountBlob,
			"DeleteBlob":       m.deleteBlob,
			"PutImage":         m.putImage,
			"PutIndex":         m.putIndex,
			"DeleteTag":        m.deleteTag,
			"DeleteManifest":   m.deleteManifest,
			"DeleteRepository": m.deleteRepository,
			"StartUpload":      m.startUpload,
			"AppendUpload":     m.appendUpload,
			"FinishUpload":     m.finishUpload,
			"CancelUpload":     m.cancelUpload,
		})
	})
}

// model is a registry as maps. A repository is in it once it was written to.
type model struct {
	r            *storage.Registry
	t            *testing.T
	prefix       string // of all names
	repositories map[string]*modelRepository
	uploads      map[string]*modelUpload
	calls        int

	anyRepository *rapid.Generator[string]
}

type modelRepository struct {
	blobs     map[digest.Digest]bool
	manifests map[digest.Digest]*storage.Manifest
	tags      map[string]digest.Digest
}

type modelUpload struct {
	repository string
	content    string
}

// Few names and contents, so that calls meet.
var (
	anyTag     = rapid.SampledFrom([]string{"latest", "v1", "v2"})
	anyContent = rapid.SampledFrom([]string{"", "{}", "layer", "layer and more"})
)

// end leaves no upload to the next sequence, nor manifests, which Stats counts.
func (m *model) end() {
	for id, upload := range m.uploads {
		if err := m.r.CancelUpload(context.Background(), upload.repository, id); err != nil {
			m.t.Errorf("CancelUpload: %v", err)
		}
	}
	for name := range m.repositories {
		if err := m.r.DeleteRepository(context.Background(), name); err != nil {
			m.t.Errorf("DeleteRepository: %v", err)
		}
	}
}

// repository returns a repository of the model, which is made if need be.
func (m *model) repository(name string) *modelRepository {
	if m.repositories[name] == nil {
		m.repositories[name] = &modelRepository{
			blobs:     map[digest.Digest]bool{},
			manifests: map[digest.Digest]*storage.Manifest{},
			tags:      map[string]digest.Digest{},
		}
	}
	return m.repositories[name]
}

// names tells whether a manifest there names d.
func (r *modelRepository) names(d digest.Digest) bool {
	for _, m := range r.manifests {
		if slices.Contains(m.Required, d) || slices.Contains(m.Children, d) {
			return true
		}
	}
	return false
}

// expect ends the test unless err is want, which is nil or a sentinel.
func expect(t *rapid.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v, want %v", what, err, want)
	}
}

func (m *model) pushBlob(t *rapid.T) {
	name, content := m.anyRepository.Draw(t, "repository"), anyContent.Draw(t, "content")
	d := digest.FromString(content)
	if rapid.IntRange(0, 4).Draw(t, "wrong") == 0 {
		err := m.r.PushBlob(context.Background(), name, strings.NewReader(content+"!"), d)
		expect(t, "PushBlob", err, storage.ErrDigestInvalid)
		return
	}
	expect(t, "PushBlob", m.r.PushBlob(context.Background(), name, strings.NewReader(content), d), nil)
	m.repository(name).blobs[d] = true
}

func (m *model) mountBlob(t *rapid.T) {
	name, from := m.anyRepository.Draw(t, "repository"), m.anyRepository.Draw(t, "from")
	d := digest.FromString(anyContent.Draw(t, "content"))
	var want error
	if source := m.repositories[from]; source == nil || !source.blobs[d] {
		want = storage.ErrBlobUnknown
	}
	expect(t, "MountBlob", m.r.MountBlob(context.Background(), name, from, d, nil), want)
	if want == nil {
		m.repository(name).blobs[d] = true
	}
}

func (m *model) deleteBlob(t *rapid.T) {
	name, d := m.anyRepository.Draw(t, "repository"), digest.FromString(anyContent.Draw(t, "content"))
	repository := m.repositories[name]
	var want error
	switch {
	case repository == nil:
		want = storage.ErrNameUnknown
	case repository.names(d):
		want = storage.ErrBlobReferenced
	case !repository.blobs[d]:
		want = storage.ErrBlobUnknown
	}
	expect(t, "DeleteBlob", m.r.DeleteBlob(context.Background(), name, d), want)
	if want == nil {
		delete(repository.blobs, d)
	}
}

func (m *model) putImage(t *rapid.T) {
	config := digest.FromString(anyContent.Draw(t, "config"))
	layer := digest.FromString(anyContent.Draw(t, "layer"))
	m.put(t, image(m.t, config, layer))
}

func (m *model) putIndex(t *rapid.T) {
	name := m.anyRepository.Draw(t, "of")
	child := digest.FromString("absent")
	if repository := m.repositories[name]; repository != nil && len(repository.manifests) > 0 {
		child = rapid.SampledFrom(slices.Sorted(maps.Keys(repository.manifests))).Draw(t, "child")
	}
	m.put(t, index(m.t, child))
}

func (m *model) put(t *rapid.T, manifest *storage.Manifest) {
	name := m.anyRepository.Draw(t, "repository")
	put := storage.Put{
		Tags:   rapid.SliceOfN(anyTag, 0, 2).Draw(t, "tags"),
		Sparse: rapid.SampledFrom([]storage.Sparse{"", storage.SparseIndex, storage.SparseOn, storage.SparseOff}).Draw(t, "sparse"),
	}
	if rapid.Bool().Draw(t, "create only") {
		put.Check = createOnly
	}
	repository := m.repositories[name]
	if repository == nil {
		repository = new(modelRepository) // that a refusal does not make
	}
	var want error
	var wantChanges []storage.TagChange
	for i, tag := range put.Tags {
		current := repository.tags[tag]
		if current == manifest.Digest || slices.Contains(put.Tags[:i], tag) {
			continue
		}
		if put.Check != nil && current != "" {
			want = errTaken
		}
		wantChanges = append(wantChanges, storage.TagChange{Tag: tag, Previous: current})
	}
	for _, d := range manifest.Required {
		if put.Sparse != storage.SparseOn && !repository.blobs[d] {
			want = storage.ErrManifestBlobUnknown
		}
	}
	for _, d := range manifest.Children {
		if put.Sparse == storage.SparseOff && repository.manifests[d] == nil {
			want = storage.ErrManifestBlobUnknown
		}
	}
	changes, err := m.r.PutManifest(context.Background(), name, manifest, put)
	expect(t, "PutManifest", err, want)
	if want != nil {
		return
	}
	if !slices.Equal(changes, wantChanges) {
		t.Fatalf("PutManifest changed %v, want %v", changes, wantChanges)
	}
	repository = m.repository(name)
	repository.manifests[manifest.Digest] = manifest
	for _, tag := range put.Tags {
		repository.tags[tag] = manifest.Digest
	}
}

func (m *model) deleteTag(t *rapid.T) {
	name, tag := m.anyRepository.Draw(t, "repository"), anyTag.Draw(t, "tag")
	repository := m.repositories[name]
	var want error
	if repository == nil {
		want = storage.ErrNameUnknown
	} else if _, there := repository.tags[tag]; !there {
		want = storage.ErrManifestUnknown
	}
	expect(t, "DeleteTag", m.r.DeleteTag(context.Background(), name, tag), want)
	if want == nil {
		delete(repository.tags, tag)
	}
}

func (m *model) deleteManifest(t *rapid.T) {
	name := m.anyRepository.Draw(t, "repository")
	repository := m.repositories[name]
	d := digest.FromString("absent")
	want := storage.ErrManifestUnknown
	if repository == nil {
		want = storage.ErrNameUnknown
	} else if len(repository.manifests) > 0 {
		d = rapid.SampledFrom(slices.Sorted(maps.Keys(repository.manifests))).Draw(t, "manifest")
		want = nil
	}
	expect(t, "DeleteManifest", m.r.DeleteManifest(context.Background(), name, d), want)
	if want == nil {
		delete(repository.manifests, d)
		maps.DeleteFunc(repository.tags, func(_ string, named digest.Digest) bool { return named == d })
	}
}

func (m *model) deleteRepository(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		t.Skip()
	}
	name := m.anyRepository.Draw(t, "repository")
	repository := m.repositories[name]
	if repository == nil {
		expect(t, "DeleteRepository", m.r.DeleteRepository(context.Background(), name), storage.ErrNameUnknown)
		return
	}
	expect(t, "DeleteRepository", m.r.DeleteRepository(context.Background(), name), nil)
	clear(repository.blobs)
	clear(repository.manifests)
	clear(repository.tags)
}

func (m *model) startUpload(t *rapid.T) {
	name := m.anyRepository.Draw(t, "repository")
	algorithm := rapid.SampledFrom([]digest.Algorithm{digest.SHA256, digest.SHA512}).Draw(t, "algorithm")
	id, err := m.r.StartUpload(context.Background(), name, algorithm)
	expect(t, "StartUpload", err, nil)
	m.uploads[id] = &modelUpload{repository: name}
}

// upload draws one of the uploads under way.
func (m *model) upload(t *rapid.T) (string, *modelUpload) {
	if len(m.uploads) == 0 {
		t.Skip("none is under way")
	}
	// Ids are random, so that what is drawn is which one in an order that is not.
	ids := slices.SortedFunc(maps.Keys(m.uploads), func(a, b string) int {
		return strings.Compare(m.uploads[a].repository+m.uploads[a].content, m.uploads[b].repository+m.uploads[b].content)
	})
	id := ids[rapid.IntRange(0, len(ids)-1).Draw(t, "upload")]
	return id, m.uploads[id]
}

func (m *model) appendUpload(t *rapid.T) {
	id, upload := m.upload(t)
	piece := rapid.SampledFrom([]string{"", "{}", "layer", " and more"}).Draw(t, "piece")
	start := rapid.SampledFrom([]int64{-1, 0, int64(len(upload.content))}).Draw(t, "start")
	tooMany := rapid.IntRange(0, 9).Draw(t, "too many") == 0
	c := storage.Chunk{Body: newBody(piece), Start: start, Size: int64(len(piece))}
	if tooMany && len(piece) > 0 {
		c.Size--
	}
	_, err := m.r.AppendUpload(context.Background(), upload.repository, id, c)
	switch {
	case start >= 0 && start != int64(len(upload.content)):
		expect(t, "AppendUpload", err, storage.ErrRangeInvalid)
	case c.Size < int64(len(piece)):
		expect(t, "AppendUpload", err, storage.ErrSizeInvalid)
		delete(m.uploads, id)
	default:
		expect(t, "AppendUpload", err, nil)
		upload.content += piece
	}
}

func (m *model) finishUpload(t *rapid.T) {
	id, upload := m.upload(t)
	d := digest.FromString(upload.content)
	wrong := rapid.IntRange(0, 4).Draw(t, "wrong") == 0
	if wrong {
		d = digest.FromString(upload.content + "!")
	}
	_, err := m.r.FinishUpload(context.Background(), upload.repository, id, chunk(""), d)
	delete(m.uploads, id)
	if wrong {
		expect(t, "FinishUpload", err, storage.ErrDigestInvalid)
		return
	}
	expect(t, "FinishUpload", err, nil)
	m.repository(upload.repository).blobs[d] = true
}

func (m *model) cancelUpload(t *rapid.T) {
	id, upload := m.upload(t)
	expect(t, "CancelUpload", m.r.CancelUpload(context.Background(), upload.repository, id), nil)
	delete(m.uploads, id)
}

// check compares all that can be seen.
func (m *model) check(t *rapid.T) {
	if m.calls++; m.calls%race.Stride() > 0 {
		return
	}
	ctx := context.Background()
	var listed []string
	for name, repository := range m.repositories {
		if len(repository.manifests) > 0 {
			listed = append(listed, name)
		}
		if err := m.checkRepository(ctx, name, repository); err != nil {
			t.Fatalf("repository %s: %v", name, err)
		}
	}
	slices.Sort(listed)
	if got, err := m.r.Repositories(ctx, m.prefix, 10); err != nil || !slices.Equal(got, listed) {
		t.Fatalf("Repositories = %v, %v, want %v", got, err, listed)
	}
	for id, upload := range m.uploads {
		if size, err := m.r.UploadSize(ctx, upload.repository, id); err != nil || size != int64(len(upload.content)) {
			t.Fatalf("UploadSize = %d, %v, want %d", size, err, len(upload.content))
		}
	}
	stats, err := m.r.Stats(ctx)
	if err != nil || stats.Uploads != int64(len(m.uploads)) || stats.Repositories != int64(len(listed)) {
		t.Fatalf("Stats = %+v, %v, want %d uploads and %d repositories", stats, err, len(m.uploads), len(listed))
	}
}

func (m *model) checkRepository(ctx context.Context, name string, repository *modelRepository) error {
	for d := range repository.blobs {
		if err := checkBlob(m.r, name, d); err != nil {
			return err
		}
	}
	for _, content := range []string{"", "{}", "layer", "layer and more", "layer!"} {
		d := digest.FromString(content)
		if _, err := m.r.StatBlob(ctx, name, d); (err == nil) != repository.blobs[d] {
			return fmt.Errorf("blob %q is there: %t, want %t", content, err == nil, repository.blobs[d])
		}
	}
	for d, want := range repository.manifests {
		got, err := m.r.Manifest(ctx, name, storage.Reference{Digest: d})
		if err != nil || !bytes.Equal(got.Content, want.Content) {
			return fmt.Errorf("manifest %s: %w", d, err)
		}
	}
	for tag, d := range repository.tags {
		got, err := m.r.Manifest(ctx, name, storage.Reference{Tag: tag})
		if err != nil || got.Digest != d {
			return fmt.Errorf("tag %s is not %s: %w", tag, d, err)
		}
	}
	tags, err := m.r.Tags(ctx, name, "", 10)
	if want := slices.Sorted(maps.Keys(repository.tags)); err != nil || !slices.Equal(tags, want) {
		return fmt.Errorf("tags are %v, %v, want %v", tags, err, want)
	}
	return nil
}
