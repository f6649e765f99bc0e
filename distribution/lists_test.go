package distribution_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

// next returns the path of the Link header, or "".
func (a answer) next(t *testing.T) string {
	t.Helper()
	link := a.Header.Get("Link")
	if link == "" {
		return ""
	}
	path, rel, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || rel != `; rel="next"` {
		t.Fatalf("Link %q", link)
	}
	if _, err := url.Parse(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTagsArePagedInOrder(t *testing.T) {
	s := newServer(t, "")
	manifest := s.image("a/b", nil)
	var want []string
	query := ""
	for i := range 25 {
		tag := fmt.Sprintf("v%d", i)
		want = append(want, tag)
		query += "&tag=" + tag
	}
	want = append(want, "Upper", "_under")
	a := s.do(http.MethodPut, "/v2/a/b/manifests/"+digest.FromBytes(manifest).String()+"?tag=Upper&tag=_under"+query, manifest, "Content-Type", ociManifest).want(t, http.StatusCreated)
	if got := a.Header.Values("OCI-Tag"); len(got) != len(want) {
		t.Errorf("OCI-Tag %v", got)
	}
	slices.Sort(want)
	tags := func(a answer) []string {
		t.Helper()
		var list struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(a.want(t, http.StatusOK).body, &list); err != nil || list.Name != "a/b" || list.Tags == nil {
			t.Fatalf("%v in %s", err, a.body)
		}
		return list.Tags
	}
	if got := tags(s.do(http.MethodGet, "/v2/a/b/tags/list", nil)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var paged []string
	pages := 0
	for path := "/v2/a/b/tags/list?n=10"; path != ""; pages++ {
		a := s.do(http.MethodGet, path, nil)
		paged = append(paged, tags(a)...)
		path = a.next(t)
	}
	if !slices.Equal(paged, want) || pages != 3 {
		t.Errorf("%d pages: got %v, want %v", pages, paged, want)
	}
	if a := s.do(http.MethodGet, "/v2/a/b/tags/list?n=27", nil); len(tags(a)) != 27 || a.next(t) != "" {
		t.Errorf("the last page leads on to %q", a.next(t))
	}
	if a := s.do(http.MethodGet, "/v2/a/b/tags/list?n=0", nil); len(tags(a)) != 0 || a.next(t) != "" {
		t.Errorf("n=0 gives %s and leads on to %q", a.body, a.next(t))
	}
	if got := tags(s.do(http.MethodGet, "/v2/a/b/tags/list?last=v7", nil)); !slices.Equal(got, []string{"v8", "v9"}) {
		t.Errorf("after v7: %v", got)
	}
	for _, n := range []string{"-1", "x", ""} {
		s.do(http.MethodGet, "/v2/a/b/tags/list?n="+n, nil).wantError(t, http.StatusBadRequest, "UNSUPPORTED")
	}
}

func TestLongListsComeWhole(t *testing.T) {
	s := newServer(t, "")
	manifest := s.image("a/b", nil)
	var want []string
	for i := range 30 {
		query := url.Values{}
		for j := range 100 {
			tag := fmt.Sprintf("t%02d%02d", i, j)
			query.Add("tag", tag)
			want = append(want, tag)
		}
		s.do(http.MethodPut, "/v2/a/b/manifests/"+digest.FromBytes(manifest).String()+"?"+query.Encode(), manifest, "Content-Type", ociManifest).want(t, http.StatusCreated)
	}
	var list struct{ Tags []string }
	a := s.do(http.MethodGet, "/v2/a/b/tags/list", nil).want(t, http.StatusOK)
	if err := json.Unmarshal(a.body, &list); err != nil || !slices.Equal(list.Tags, want) {
		t.Errorf("%v, %d tags, want %d", err, len(list.Tags), len(want))
	}
}

func TestCatalogListsRepositoriesWithContent(t *testing.T) {
	s := newServer(t, "")
	for _, name := range []string{"c/d", "a/b", "a/a/a", "b"} {
		s.putManifest(name, "v1", s.image(name, nil)).want(t, http.StatusCreated)
	}
	s.startUpload("z/upload")
	s.pushBlob("z/blob", []byte("x"))
	a := s.do(http.MethodGet, "/v2/_catalog", nil).want(t, http.StatusOK)
	if got, want := strings.TrimSpace(string(a.body)), `{"repositories":["a/a/a","a/b","b","c/d"]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	a = s.do(http.MethodGet, "/v2/_catalog?n=2&last=a/a/a", nil).want(t, http.StatusOK)
	if got, want := strings.TrimSpace(string(a.body)), `{"repositories":["a/b","b"]}`; got != want || a.next(t) != "/v2/_catalog?last=b&n=2" {
		t.Errorf("got %s, want %s; leads on to %q", got, want, a.next(t))
	}
}

func TestReferrers(t *testing.T) {
	s := newServer(t, "")
	subject := s.image("a/b", nil)
	of := descriptor(ociManifest, subject)
	path := "/v2/a/b/referrers/" + of.Digest.String()
	list := func(path string) ([]imagespec.Descriptor, answer) {
		t.Helper()
		a := s.do(http.MethodGet, path, nil).want(t, http.StatusOK)
		var index imagespec.Index
		if err := json.Unmarshal(a.body, &index); err != nil {
			t.Fatal(err)
		}
		if index.SchemaVersion != 2 || index.MediaType != ociIndex || index.Manifests == nil || a.Header.Get("Content-Type") != ociIndex {
			t.Errorf("%s is no index of type %s: %s", path, a.Header.Get("Content-Type"), a.body)
		}
		return index.Manifests, a
	}
	// Of what is not there: nothing, and no error.
	if got, _ := list(path); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	var want []imagespec.Descriptor
	for i := range 5 {
		artifact := s.image("a/b", func(m *imagespec.Manifest) {
			m.Subject = &of
			m.Annotations = map[string]string{"n": fmt.Sprint(i)}
			if i%2 == 0 {
				m.ArtifactType = "application/vnd.example.sbom"
			}
		})
		a := s.putManifest("a/b", digest.FromBytes(artifact).String(), artifact).want(t, http.StatusCreated)
		if got := a.Header.Get("OCI-Subject"); got != of.Digest.String() {
			t.Errorf("OCI-Subject %q", got)
		}
		desc := descriptor(ociManifest, artifact)
		desc.Annotations = map[string]string{"n": fmt.Sprint(i)}
		desc.ArtifactType = imagespec.MediaTypeImageConfig // of the config, when the manifest has none
		if i%2 == 0 {
			desc.ArtifactType = "application/vnd.example.sbom"
		}
		want = append(want, desc)
	}
	index := marshal(t, imagespec.Index{Versioned: versioned, MediaType: ociIndex, Manifests: []imagespec.Descriptor{}, Subject: &of})
	s.putManifest("a/b", "index", index).want(t, http.StatusCreated)
	want = append(want, descriptor(ociIndex, index))
	// A client that does not know the API lists them itself, under a tag.
	fallback := marshal(t, imagespec.Index{Versioned: versioned, MediaType: ociIndex, Manifests: want})
	s.putManifest("a/b", strings.Replace(of.Digest.String(), ":", "-", 1), fallback).want(t, http.StatusCreated)

	slices.SortFunc(want, func(a, b imagespec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	if got, _ := list(path); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	var paged []imagespec.Descriptor
	for next := path + "?n=2"; next != ""; {
		got, a := list(next)
		paged = append(paged, got...)
		next = a.next(t)
	}
	if !reflect.DeepEqual(paged, want) {
		t.Errorf("by pages %v\nwant %v", paged, want)
	}
	filtered := 0
	for next := path + "?n=1&artifactType=application/vnd.example.sbom"; next != ""; {
		got, a := list(next)
		if a.Header.Get("OCI-Filters-Applied") != "artifactType" {
			t.Errorf("OCI-Filters-Applied %q", a.Header.Get("OCI-Filters-Applied"))
		}
		for _, desc := range got {
			filtered++
			if desc.ArtifactType != "application/vnd.example.sbom" {
				t.Errorf("%v", desc)
			}
		}
		next = a.next(t)
	}
	if filtered != 3 {
		t.Errorf("%d are of the type that was asked for, want 3", filtered)
	}
	s.do(http.MethodDelete, "/v2/a/b/manifests/"+want[0].Digest.String(), nil).want(t, http.StatusAccepted)
	if got, _ := list(path); !reflect.DeepEqual(got, want[1:]) {
		t.Errorf("after a deletion %v\nwant %v", got, want[1:])
	}
}

var versioned = func() (v imagespec.Manifest) { v.SchemaVersion = 2; return }().Versioned

func TestSparse(t *testing.T) {
	absent := descriptor(ociManifest, []byte("absent"))
	for _, c := range []struct {
		sparse       storage.Sparse
		index, image int
	}{
		{"", http.StatusCreated, http.StatusBadRequest},
		{storage.SparseIndex, http.StatusCreated, http.StatusBadRequest},
		{storage.SparseOn, http.StatusCreated, http.StatusCreated},
		{storage.SparseOff, http.StatusBadRequest, http.StatusBadRequest},
	} {
		t.Run("sparse "+string(c.sparse), func(t *testing.T) {
			s := newServer(t, c.sparse)
			index := marshal(t, imagespec.Index{Versioned: versioned, MediaType: ociIndex, Manifests: []imagespec.Descriptor{absent}})
			s.putManifest("a/b", "index", index).want(t, c.index)
			image := s.image("a/b", func(m *imagespec.Manifest) { m.Layers = append(m.Layers, absent) })
			s.putManifest("a/b", "image", image).want(t, c.image)
			// What is elsewhere need never be here.
			foreign := s.image("a/b", func(m *imagespec.Manifest) {
				m.Layers = append(m.Layers, imagespec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: absent.Digest, Size: 6})
			})
			s.putManifest("a/b", "foreign", foreign).want(t, http.StatusCreated)
			s.putManifest("a/b", "whole", s.image("a/b", nil)).want(t, http.StatusCreated)
			s.do(http.MethodHead, "/v2/a/b/blobs/"+absent.Digest.String(), nil).want(t, http.StatusNotFound)
		})
	}
}

func TestTagsOfOnePushAreAllOrNothing(t *testing.T) {
	s := newServer(t, "")
	manifest := s.image("a/b", nil)
	path := "/v2/a/b/manifests/" + digest.FromBytes(manifest).String()
	s.do(http.MethodPut, path+"?tag=good&tag=-bad", manifest, "Content-Type", ociManifest).wantError(t, http.StatusBadRequest, "MANIFEST_INVALID")
	s.do(http.MethodGet, "/v2/a/b/manifests/good", nil).want(t, http.StatusNotFound)
	s.do(http.MethodGet, path, nil).want(t, http.StatusNotFound)
	s.do(http.MethodPut, path+"?"+strings.Repeat("tag=x&", 101), manifest, "Content-Type", ociManifest).wantError(t, http.StatusBadRequest, "MANIFEST_INVALID")
}

func TestDeletedManifestTakesItsTagsAlong(t *testing.T) {
	s := newServer(t, "")
	manifest, other := s.image("a/b", nil), s.image("a/b", nil)
	for _, tag := range []string{"v1", "v2", "v3"} {
		s.putManifest("a/b", tag, manifest).want(t, http.StatusCreated)
	}
	s.putManifest("a/b", "other", other).want(t, http.StatusCreated)
	s.do(http.MethodGet, "/v2/a/b/manifests/v2", nil).want(t, http.StatusOK)
	s.do(http.MethodDelete, "/v2/a/b/manifests/v1", nil).want(t, http.StatusAccepted)
	s.do(http.MethodGet, "/v2/a/b/manifests/v1", nil).wantError(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	s.do(http.MethodGet, "/v2/a/b/manifests/v2", nil).want(t, http.StatusOK)
	s.do(http.MethodDelete, "/v2/a/b/manifests/"+digest.FromBytes(manifest).String(), nil).want(t, http.StatusAccepted)
	for _, reference := range []string{"v2", "v3", digest.FromBytes(manifest).String()} {
		s.do(http.MethodGet, "/v2/a/b/manifests/"+reference, nil).wantError(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
	s.do(http.MethodGet, "/v2/a/b/manifests/other", nil).want(t, http.StatusOK)
}
