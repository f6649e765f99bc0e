package upstreamtest_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestListsArePaged(t *testing.T) {
	upstream := upstreamtest.Start(t)
	image := upstream.AddImage("a", "c", []byte("1"))
	for _, tag := range []string{"e", "a", "d", "b"} {
		upstream.MoveTag("a", tag, image.Manifest.Digest)
	}
	upstream.AddReferrer("a", image.Manifest, "application/signature", []byte("s1"))
	upstream.AddReferrer("a", image.Manifest, "application/signature", []byte("s2"))
	upstream.AddReferrer("a", image.Manifest, "application/sbom", []byte("b"))
	upstream.SetPageSize(2)

	var tags []string
	for path := "/v2/a/tags/list"; path != ""; {
		r := ask(t, "GET", upstream.URL()+path)
		var list struct{ Tags []string }
		if err := json.Unmarshal(r.body, &list); err != nil || len(list.Tags) > 2 {
			t.Fatalf("%s: %s, %v", path, r.body, err)
		}
		tags, path = append(tags, list.Tags...), next(r)
	}
	if got := strings.Join(tags, ""); got != "abcde" {
		t.Errorf("got tags %s", got)
	}

	count := 0
	for path := "/v2/a/referrers/" + image.Manifest.Digest.String() + "?artifactType=application/signature"; path != ""; {
		r := ask(t, "GET", upstream.URL()+path)
		var index imagespec.Index
		if err := json.Unmarshal(r.body, &index); err != nil || r.Header.Get("OCI-Filters-Applied") == "" {
			t.Fatalf("%s: %s, %v", path, r.body, err)
		}
		count, path = count+len(index.Manifests), next(r)
	}
	if count != 2 {
		t.Errorf("got %d referrers of a type, want 2", count)
	}
}

func next(r response) string {
	if found := regexp.MustCompile(`^<(.*)>; rel="next"$`).FindStringSubmatch(r.Header.Get("Link")); found != nil {
		return found[1]
	}
	return ""
}

func TestReferrersUnderFallbackTag(t *testing.T) {
	upstream := upstreamtest.Start(t)
	image := upstream.AddImage("a", "1", []byte("1"))
	referrer := upstream.AddReferrer("a", image.Manifest, "application/sbom", []byte("b"))
	upstream.SetReferrersAPI(false)
	if r := ask(t, "GET", upstream.URL()+"/v2/a/referrers/"+image.Manifest.Digest.String()); r.StatusCode != 404 {
		t.Error(r.Status)
	}
	tag := strings.Replace(image.Manifest.Digest.String(), ":", "-", 1)
	r := ask(t, "GET", upstream.URL()+"/v2/a/manifests/"+tag)
	var index imagespec.Index
	if err := json.Unmarshal(r.body, &index); err != nil || len(index.Manifests) != 1 || index.Manifests[0].Digest != referrer.Digest {
		t.Errorf("%s: %s, %v", r.Status, r.body, err)
	}
}
