//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/distribution/conformancetest"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// options are those of a registry with its bytes in a bucket.
func (s *s3Server) options(bucket, redirect string) string {
	return fmt.Sprintf(`storage s3 {
			bucket %s
			endpoint %s
			region us-east-1
			access_key_id %s
			secret_access_key %s
			prefix registry/
			path_style
			redirect %s
			spool {$STORAGE}
		}`, bucket, s.url(), s3Key, s3Secret, redirect)
}

// TestConformanceOnEveryMix runs the suite against servers that keep bytes and facts in
// each of the places that there are.
func TestConformanceOnEveryMix(t *testing.T) {
	objects, db := newS3(t), newPostgres(t)
	objects.start()
	db.start()
	suite := conformancetest.Build(t)
	for _, bytes := range []string{"files", "S3"} {
		for _, facts := range []string{"SQLite", "PostgreSQL"} {
			t.Run(bytes+", "+facts, func(t *testing.T) {
				storage := "storage filesystem {$STORAGE}"
				if bytes == "S3" {
					// The suite wants Docker-Content-Digest of where it is redirected to, which no
					// service sends.
					storage = objects.options(objects.newBucket(t), "off")
				}
				if facts == "PostgreSQL" {
					storage += "\n\t\tdatabase postgres " + db.newDatabase(t)
				}
				p := newProcess(t, replaced(t, registryCaddyfile, "storage filesystem {$STORAGE}", storage+"\n\t\tsparse on"))
				p.start()
				conformancetest.Run(t, suite, "127.0.0.1:"+p.port, "OCI_VERSION=dev")
			})
		}
	}
}

// TestBlobsOnS3AreRedirected to a URL that works for a while and that nobody keeps, and
// what is pulled through is there too.
func TestBlobsOnS3AreRedirected(t *testing.T) {
	objects := newS3(t)
	objects.start()
	up := upstreamtest.Start(t)
	image := up.AddImage("team/app", "v1", upstreamtest.Bytes(1, 3<<20))
	config := replaced(t, cacheCaddyfile(cached("hub.example", up.URL())), "storage filesystem {$STORAGE}", objects.options(objects.newBucket(t), "on"))
	p := newProcess(t, config)
	p.start()
	send := p.client() // follows redirects
	manifest := mustPush(t, send, "team/own", "v1", []byte("own"))
	mustRead(t, send, "/v2/team/own/manifests/v1", manifest)
	mustRead(t, send, blobPath("team/own", []byte("own")), []byte("own"))
	mustPull(t, send, "hub.example/team/app", "v1", image)

	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for repository, d := range map[string]digest.Digest{"team/own": digest.FromString("own"), "hub.example/team/app": image.Layers[0].Digest} {
		path := "/v2/" + repository + "/blobs/" + d.String()
		eventually(t, "a blob is redirected", func() error {
			response, err := client.Get(p.url(path))
			if err != nil {
				return err
			}
			response.Body.Close()
			location := response.Header.Get("Location")
			if response.StatusCode != http.StatusTemporaryRedirect || !strings.HasPrefix(location, objects.url()) {
				return fmt.Errorf("%s: %s to %q", path, response.Status, location)
			}
			if cache := response.Header.Get("Cache-Control"); cache != "no-store" {
				t.Errorf("%s: Cache-Control is %q", path, cache)
			}
			if lasts := "X-Amz-Expires=" + fmt.Sprint(int((20 * time.Minute).Seconds())); !strings.Contains(location, lasts) {
				t.Errorf("%s: %s has no %s", path, location, lasts)
			}
			return nil
		})
		response, err := client.Head(p.url(path))
		if err != nil || response.StatusCode != http.StatusOK || response.Header.Get("Location") != "" {
			t.Errorf("HEAD %s: %v %v", path, response, err)
		}
	}
}
