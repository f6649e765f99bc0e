package storagetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

var manifestTests = []registryTest{
	{"a manifest is read by tag and by digest, also after a restart", testPutManifest},
	{"what a manifest needs must be there, as sparse says", testSparse},
	{"layers that are kept elsewhere are not needed", testForeignLayers},
	{"a tag moves to another manifest", testMoveTag},
	{"a tag that may only be made does not move", testCreateOnly},
	{"what a put did to tags is told, and those that stay are not asked about", testTagChanges},
	{"several tags are put together or not at all", testSeveralTags},
	{"a manifest is not put again as another type", testOtherType},
	{"a deleted manifest takes its tags with it", testDeleteManifest},
	{"a deleted tag leaves its manifest", testDeleteTag},
	{"referrers are found by subject, filtered and paged", testReferrers},
	{"a manifest of the largest size is kept", testLargeManifest},
}

func testPutManifest(t *testing.T, r *registry) {
	r.wantNoManifest("a", "latest", storage.ErrNameUnknown)
	r.wantNoManifest("a", digest.FromString("absent").String(), storage.ErrNameUnknown)
	m := r.pushImage("a", "layer")
	r.wantNoManifest("a", "latest", storage.ErrManifestUnknown)
	r.put("a", m, "latest")
	r.put("a", m) // again, without a tag, changes nothing
	x := index(t, m.Digest)
	r.put("a", x)
	sha512, err := storage.ParseManifest(m.MediaType, m.Content, digest.SHA512)
	if err != nil {
		t.Fatal(err)
	}
	r.put("a", sha512, "by-sha512")
	for range 2 {
		for range 2 { // the second time it may be remembered
			r.wantManifest("a", "latest", m)
			r.wantManifest("a", m.Digest.String(), m)
			r.wantManifest("a", x.Digest.String(), x)
			r.wantManifest("a", "by-sha512", sha512)
			r.wantManifest("a", sha512.Digest.String(), sha512)
			r.wantNoManifest("a", "absent", storage.ErrManifestUnknown)
			r.wantNoManifest("b", "latest", storage.ErrNameUnknown)
			r.wantNoManifest("b", m.Digest.String(), storage.ErrNameUnknown)
		}
		r.restart()
	}
}

func testSparse(t *testing.T, r *registry) {
	ctx := context.Background()
	absent := digest.FromString("absent")
	whole := r.pushImage("a", "layer")
	r.put("a", whole)
	r.put("b", r.pushImage("b", "in b"))
	layer := digest.FromString("layer")
	images := map[string]*storage.Manifest{
		"config":                  image(t, absent, layer),
		"layer":                   image(t, layer, layer, absent),
		"blob of another":         image(t, layer, digest.FromString("in b")),
		"algorithm that none has": image(t, layer, "sha384:"+digest.Digest(digest.SHA384.FromString("").Encoded())),
	}
	indexes := map[string]*storage.Manifest{
		"manifest":            index(t, whole.Digest, absent),
		"manifest of another": index(t, r.pushImage("b", "in b").Digest),
	}
	refused := func(sparse storage.Sparse, manifests map[string]*storage.Manifest) {
		t.Helper()
		for what, m := range manifests {
			_, err := r.PutManifest(ctx, "a", m, storage.Put{Sparse: sparse, Tags: []string{"refused"}})
			if wantError(t, what, err, storage.ErrManifestBlobUnknown); err != nil && !strings.Contains(err.Error(), missing(m)) {
				t.Errorf("sparse %q, absent %s: %q does not name %s", sparse, what, err, missing(m))
			}
			r.wantNoManifest("a", m.Digest.String(), storage.ErrManifestUnknown)
			r.wantNoManifest("a", "refused", storage.ErrManifestUnknown)
		}
	}
	taken := func(sparse storage.Sparse, manifests map[string]*storage.Manifest) {
		t.Helper()
		for what, m := range manifests {
			if _, err := r.PutManifest(ctx, "a", m, storage.Put{Sparse: sparse}); err != nil {
				t.Errorf("sparse %q, absent %s: %v", sparse, what, err)
			}
			r.wantManifest("a", m.Digest.String(), m)
			if err := r.DeleteManifest(ctx, "a", m.Digest); err != nil {
				t.Errorf("DeleteManifest: %v", err)
			}
		}
	}
	refused(storage.SparseOff, images)
	refused(storage.SparseOff, indexes)
	refused(storage.SparseIndex, images)
	refused("", images)
	taken(storage.SparseIndex, indexes)
	taken("", indexes)
	taken(storage.SparseOn, images)
	taken(storage.SparseOn, indexes)
	// What is whole is taken by all, a blob in an index as well: build caches have those.
	for _, sparse := range []storage.Sparse{"", storage.SparseIndex, storage.SparseOn, storage.SparseOff} {
		if _, err := r.PutManifest(ctx, "a", index(t, whole.Digest, layer), storage.Put{Sparse: sparse}); err != nil {
			t.Errorf("sparse %q: %v", sparse, err)
		}
	}
	// An absent thing that a manifest names is not held.
	if _, err := r.PutManifest(ctx, "a", image(t, absent), storage.Put{Sparse: storage.SparseOn}); err != nil {
		t.Fatal(err)
	}
	r.wantNoBlob("a", absent)
	wantError(t, "MountBlob", r.MountBlob(ctx, "b", "a", absent, nil), storage.ErrBlobUnknown)
	_, err := r.PutManifest(ctx, "a", image(t, layer, absent), storage.Put{})
	wantError(t, "PutManifest", err, storage.ErrManifestBlobUnknown)
}

// missing returns the last thing that a manifest names: the one that testSparse leaves out.
func missing(m *storage.Manifest) string {
	all := slices.Concat(m.Required, m.Children)
	for _, d := range all {
		if d == digest.FromString("absent") {
			return d.String()
		}
	}
	return all[len(all)-1].String()
}

func testForeignLayers(t *testing.T, r *registry) {
	config := r.push("a", "{}")
	foreign := descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", digest.FromString("absent 1"))
	restricted := descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", digest.FromString("absent 2"))
	linked := descriptor(imagespec.MediaTypeImageLayer, digest.FromString("absent 3"))
	linked.URLs = []string{"https://example.com/layer"}
	m := parse(t, imagespec.MediaTypeImageManifest, imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		Config:    descriptor(imagespec.MediaTypeImageConfig, config),
		Layers:    []imagespec.Descriptor{foreign, restricted, linked},
	})
	for _, sparse := range []storage.Sparse{storage.SparseIndex, storage.SparseOff} {
		if _, err := r.PutManifest(context.Background(), "a", m, storage.Put{Sparse: sparse}); err != nil {
			t.Errorf("sparse %q: %v", sparse, err)
		}
	}
	// Pushed all the same, such a layer is in use.
	d := r.push("a", "absent 1")
	wantError(t, "DeleteBlob", r.DeleteBlob(context.Background(), "a", d), storage.ErrBlobReferenced)
}

func testMoveTag(t *testing.T, r *registry) {
	m1, m2 := r.pushImage("a", "1"), r.pushImage("a", "2")
	for _, m := range []*storage.Manifest{m1, m2, m2, m1} {
		r.put("a", m, "latest")
		r.wantManifest("a", "latest", m)
	}
	r.wantManifest("a", m2.Digest.String(), m2)
}

var errTaken = errors.New("tag is taken")

// createOnly lets no tag move.
func createOnly(_ string, exists bool) error {
	if exists {
		return errTaken
	}
	return nil
}

func testCreateOnly(t *testing.T, r *registry) {
	ctx := context.Background()
	m1, m2 := r.pushImage("a", "1"), r.pushImage("a", "2")
	create := func(m *storage.Manifest, tags ...string) error {
		return second(r.PutManifest(ctx, "a", m, storage.Put{Tags: tags, Check: createOnly}))
	}
	for range 2 { // the same digest again is no change
		if err := create(m1, "v1"); err != nil {
			t.Fatalf("PutManifest: %v", err)
		}
	}
	wantError(t, "PutManifest", create(m2, "v1"), errTaken)
	r.wantManifest("a", "v1", m1)
	r.wantNoManifest("a", m2.Digest.String(), storage.ErrManifestUnknown) // nothing of a refusal stays
	if err := create(m2); err != nil {
		t.Errorf("PutManifest without a tag: %v", err)
	}
	wantError(t, "PutManifest", create(m2, "v1"), errTaken)
	if err := r.DeleteTag(ctx, "a", "v1"); err != nil {
		t.Fatal(err)
	}
	if err := create(m2, "v1"); err != nil {
		t.Errorf("PutManifest to a tag that is free again: %v", err)
	}
	r.wantManifest("a", "v1", m2)
}

func testTagChanges(t *testing.T, r *registry) {
	m1, m2 := r.pushImage("a", "1"), r.pushImage("a", "2")
	asked := map[string]bool{} // tag → whether it exists
	check := func(tag string, exists bool) error {
		asked[tag] = exists
		return nil
	}
	for _, test := range []struct {
		m     *storage.Manifest
		tags  []string
		asked map[string]bool
		want  []storage.TagChange
	}{
		{m1, []string{"x", "y", "x"}, map[string]bool{"x": false, "y": false}, []storage.TagChange{{Tag: "x"}, {Tag: "y"}}},
		{m1, []string{"x", "y"}, map[string]bool{}, nil},
		{m2, []string{"y", "z"}, map[string]bool{"y": true, "z": false}, []storage.TagChange{{Tag: "y", Previous: m1.Digest}, {Tag: "z"}}},
		{m2, nil, map[string]bool{}, nil},
		{m1, []string{"z", "x"}, map[string]bool{"z": true}, []storage.TagChange{{Tag: "z", Previous: m2.Digest}}},
	} {
		clear(asked)
		changes, err := r.PutManifest(context.Background(), "a", test.m, storage.Put{Tags: test.tags, Check: check})
		if err != nil || !slices.Equal(changes, test.want) {
			t.Errorf("PutManifest %v = %v, %v, want %v", test.tags, changes, err, test.want)
		}
		if !maps.Equal(asked, test.asked) {
			t.Errorf("Check was asked %v, want %v", asked, test.asked)
		}
	}
	changes, err := r.PutManifest(context.Background(), "a", m2, storage.Put{Tags: []string{"new", "x"}, Check: createOnly})
	if wantError(t, "PutManifest", err, errTaken); changes != nil {
		t.Errorf("a refused put changed %v", changes)
	}
}

func testSeveralTags(t *testing.T, r *registry) {
	m1, m2 := r.pushImage("a", "1"), r.pushImage("a", "2")
	r.put("a", m1, "taken", "x")
	for _, tags := range [][]string{{"new", "taken"}, {"taken", "new"}, {"new", "x", "newer"}} {
		_, err := r.PutManifest(context.Background(), "a", m2, storage.Put{Tags: tags, Check: createOnly})
		wantError(t, "PutManifest", err, errTaken)
		for _, tag := range []string{"new", "newer"} {
			r.wantNoManifest("a", tag, storage.ErrManifestUnknown)
		}
		r.wantManifest("a", "taken", m1)
		r.wantManifest("a", "x", m1)
	}
	tags := []string{"1", "1.2", "1.2.3", "1", "taken"} // one of them twice
	r.put("a", m2, tags...)
	for range 2 {
		for _, tag := range tags {
			r.wantManifest("a", tag, m2)
		}
		r.wantManifest("a", "x", m1)
		r.restart()
	}
}

func testOtherType(t *testing.T, r *registry) {
	m := r.pushImage("a", "layer")
	r.put("a", m, "latest")
	const docker = "application/vnd.docker.distribution.manifest.v2+json"
	other, err := storage.ParseManifest(docker, m.Content, digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.PutManifest(context.Background(), "a", other, storage.Put{Tags: []string{"docker"}})
	wantError(t, "PutManifest", err, storage.ErrManifestInvalid)
	r.wantNoManifest("a", "docker", storage.ErrManifestUnknown)
	r.wantManifest("a", m.Digest.String(), m)
	r.pushImage("b", "layer")
	r.put("b", other, "docker")
	r.wantManifest("b", "docker", other)
}

func testDeleteManifest(t *testing.T, r *registry) {
	ctx := context.Background()
	wantError(t, "DeleteManifest", r.DeleteManifest(ctx, "a", digest.FromString("absent")), storage.ErrNameUnknown)
	m1, m2 := r.pushImage("a", "1"), r.pushImage("a", "2")
	r.put("a", m1, "x", "y")
	r.put("a", m2, "z")
	r.put("a", index(t, m1.Digest), "index")
	for _, reference := range []string{"x", "y", m1.Digest.String()} {
		r.wantManifest("a", reference, m1) // is remembered from now on
	}
	r.pushImage("b", "1")
	r.put("b", m1, "x")
	if err := r.DeleteManifest(ctx, "a", m1.Digest); err != nil {
		t.Fatalf("DeleteManifest: %v", err)
	}
	for range 2 {
		for _, reference := range []string{"x", "y", m1.Digest.String()} {
			r.wantNoManifest("a", reference, storage.ErrManifestUnknown)
		}
		wantError(t, "DeleteManifest", r.DeleteManifest(ctx, "a", m1.Digest), storage.ErrManifestUnknown)
		r.wantManifest("a", "z", m2)
		r.wantManifest("b", "x", m1)
		if tags, err := r.Tags(ctx, "a", "", 10); err != nil || !slices.Equal(tags, []string{"index", "z"}) {
			t.Errorf("Tags = %v, %v", tags, err)
		}
		r.restart()
	}
	r.wantBlob("a", digest.FromString("1"))
	r.put("a", m1, "x")
	r.wantManifest("a", "x", m1)
}

func testDeleteTag(t *testing.T, r *registry) {
	ctx := context.Background()
	wantError(t, "DeleteTag", r.DeleteTag(ctx, "a", "x"), storage.ErrNameUnknown)
	m := r.pushImage("a", "1")
	r.put("a", m, "x", "y")
	r.wantManifest("a", "x", m)
	if err := r.DeleteTag(ctx, "a", "x"); err != nil {
		t.Fatalf("DeleteTag: %v", err)
	}
	for range 2 {
		r.wantNoManifest("a", "x", storage.ErrManifestUnknown)
		wantError(t, "DeleteTag", r.DeleteTag(ctx, "a", "x"), storage.ErrManifestUnknown)
		r.wantManifest("a", "y", m)
		r.wantManifest("a", m.Digest.String(), m)
		r.restart()
	}
}

func testReferrers(t *testing.T, r *registry) {
	ctx := context.Background()
	subject := r.pushImage("a", "subject")
	config := r.push("a", "{}")
	refer := func(artifactType string, annotations map[string]string, subject digest.Digest) *storage.Manifest {
		desc := descriptor(imagespec.MediaTypeImageManifest, subject)
		return parse(t, imagespec.MediaTypeImageManifest, imagespec.Manifest{
			Versioned:    specs.Versioned{SchemaVersion: 2},
			ArtifactType: artifactType,
			Config:       descriptor("application/vnd.example.config", config),
			Layers:       []imagespec.Descriptor{},
			Subject:      &desc,
			Annotations:  annotations,
		})
	}
	all := map[digest.Digest]*storage.Manifest{}
	put := func(m *storage.Manifest) {
		all[m.Digest] = m
		r.put("a", m)
	}
	for _, note := range []string{"1", "2", "3"} {
		put(refer("application/vnd.example.sbom", map[string]string{"note": note}, subject.Digest))
	}
	put(refer("application/vnd.example.signature", nil, subject.Digest))
	put(refer("", map[string]string{"quotes": `"`, "<&>": "\u00fc\n"}, subject.Digest)) // the type is its config's
	desc := descriptor(imagespec.MediaTypeImageManifest, subject.Digest)
	put(parse(t, imagespec.MediaTypeImageIndex, imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []imagespec.Descriptor{}, Subject: &desc}))
	r.put("a", refer("application/vnd.example.sbom", nil, digest.FromString("another subject")))
	r.pushImage("b", "subject")
	r.put("b", refer("application/vnd.example.sbom", nil, subject.Digest))

	list := func(artifactType string) func(string, int) ([]string, error) {
		return func(last string, n int) ([]string, error) {
			found, err := r.Referrers(ctx, "a", subject.Digest, artifactType, digest.Digest(last), n)
			var digests []string
			for _, desc := range found {
				m := all[desc.Digest]
				if m == nil {
					t.Fatalf("%s is no referrer", desc.Digest)
				}
				if desc.MediaType != m.MediaType || desc.ArtifactType != m.ArtifactType || desc.Size != int64(len(m.Content)) || !maps.Equal(desc.Annotations, m.Annotations) {
					t.Errorf("descriptor %+v of %+v", desc, m)
				}
				digests = append(digests, desc.Digest.String())
			}
			return digests, err
		}
	}
	for range 2 { // the subject need not be there
		for _, artifactType := range []string{"", "application/vnd.example.sbom", "application/vnd.example.signature", "application/vnd.example.config", "absent"} {
			var want []string
			for d, m := range all {
				if artifactType == "" || m.ArtifactType == artifactType {
					want = append(want, d.String())
				}
			}
			slices.Sort(want)
			wantPages(t, "Referrers of type "+artifactType, want, list(artifactType))
		}
		r.put("a", subject)
		r.restart()
	}
	for d := range all {
		if err := r.DeleteManifest(ctx, "a", d); err != nil {
			t.Fatal(err)
		}
	}
	wantPages(t, "Referrers", nil, list(""))
	for _, repository := range []string{"a", "absent"} {
		if found, err := r.Referrers(ctx, repository, digest.FromString("absent"), "", "", 10); err != nil || len(found) > 0 {
			t.Errorf("Referrers of none = %v, %v", found, err)
		}
	}
}

func testLargeManifest(t *testing.T, r *registry) {
	config := r.push("a", "{}")
	m := image(t, config)
	content := append(m.Content, []byte(strings.Repeat(" ", storage.MaxManifestSize-len(m.Content)))...)
	large, err := storage.ParseManifest(m.MediaType, content, digest.SHA256)
	if err != nil {
		t.Fatalf("ParseManifest: %v", err)
	}
	r.put("a", large, "large")
	for range 2 {
		r.wantManifest("a", "large", large)
		r.restart()
	}
}
