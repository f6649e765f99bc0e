package upstream

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestTagsOfAllPages(t *testing.T) {
	for name, link := range map[string]string{
		"relative":         `</v2/a/tags/list?last=v2&n=2>; rel="next"`,
		"query alone":      `<?last=v2&n=2>;rel=next`,
		"absolute":         `<http://%s/v2/a/tags/list?last=v2&n=2>; rel="next"`,
		"of an inner name": `<http://registry:5000/v2/a/tags/list?last=v2&n=2>; rel="next"`,
		"among others":     `</v2/a/tags/list>; rel="first", </v2/a/tags/list?last=v2&n=2>; title="x"; REL="Next"`,
	} {
		t.Run(name, func(t *testing.T) {
			url, log := serve(t, func(w http.ResponseWriter, r *http.Request) {
				defer w.(http.Flusher).Flush() // so that the end comes by itself
				switch r.URL.RequestURI() {
				case "/base/v2/a/tags/list?n=1000":
					w.Header().Set("Link", strings.Replace(link, "%s", r.Host, 1))
					io.WriteString(w, listOf("v2", "v1", "not a tag"))
				case "/base/v2/a/tags/list?last=v2&n=2":
					io.WriteString(w, listOf("v3", "v2", "V9"))
				default:
					w.WriteHeader(http.StatusTeapot)
				}
			})
			tags, err := clientOf(t, Config{}, url+"/base/").Tags(t.Context(), "a")
			if err != nil || !slices.Equal(tags, []string{"V9", "v1", "v2", "v3"}) {
				t.Errorf("%v, %v", tags, err)
			}
			if asked := log.all(); len(asked) != 2 || asked[0].RemoteAddr != asked[1].RemoteAddr {
				t.Errorf("%d requests, want two on one connection", len(asked))
			}
		})
	}
}

func TestListsAreBounded(t *testing.T) {
	var page atomic.Int32
	next := func(w http.ResponseWriter, query string) {
		w.Header().Set("Link", `</v2/a/tags/list?`+query+`>; rel="next"`)
	}
	many := make([]string, 1000)
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"none": {answerWith(`{"name":"a","tags":null}`), nil},
		"circle": {func(w http.ResponseWriter, _ *http.Request) {
			next(w, "n=1000")
			io.WriteString(w, listOf("v1"))
		}, ErrInvalid},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			next(w, fmt.Sprint("last=", page.Add(1)))
			io.WriteString(w, listOf("v1"))
		}, ErrInvalid},
		"too many": {func(w http.ResponseWriter, _ *http.Request) {
			n := page.Add(1)
			for i := range many {
				many[i] = fmt.Sprintf("v%d.%d", n, i)
			}
			next(w, fmt.Sprint("last=", n))
			io.WriteString(w, listOf(many...))
		}, ErrInvalid},
		"too large": {answerWith(`{"tags":["` + strings.Repeat("x", maxListBytes) + `"]}`), ErrInvalid},
		"no JSON":   {answerWith(`<html>`), ErrInvalid},
		"cut":       {answerWith(`{"tags":["v1"`), ErrInvalid},
		"absent":    {status(http.StatusNotFound), ErrNotFound},
		"down":      {status(http.StatusServiceUnavailable), ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			url, log := serve(t, test.handler)
			tags, err := clientOf(t, Config{}, url).Tags(t.Context(), "a")
			wantKind(t, err, test.want)
			if len(tags) != 0 || log.count() > maxPages {
				t.Errorf("%d tags after %d requests", len(tags), log.count())
			}
		})
	}
}

func TestReferrers(t *testing.T) {
	desc := func(s string) imagespec.Descriptor {
		return imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Digest: digest.FromString(s), Size: 1, ArtifactType: "x/" + s}
	}
	api := "/v2/a/referrers/" + testDigest.String()
	tagged := "/v2/a/manifests/sha256-" + testDigest.Encoded()
	index := func(descs ...imagespec.Descriptor) http.HandlerFunc {
		return answerWith(indexOf(descs...), "Content-Type", imagespec.MediaTypeImageIndex)
	}
	for name, test := range map[string]struct {
		handlers map[string]http.HandlerFunc
		want     []string
		err      error
	}{
		"API": {map[string]http.HandlerFunc{api: index(desc("1"), imagespec.Descriptor{Digest: "nonsense"})}, []string{"x/1"}, nil},
		"pages": {map[string]http.HandlerFunc{api: func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("last") == "" {
				w.Header().Set("Link", `<`+api+`?last=1>; rel="next"`)
				index(desc("1"))(w, r)
				return
			}
			index(desc("2"))(w, r)
		}}, []string{"x/1", "x/2"}, nil},
		"API that has none":           {map[string]http.HandlerFunc{api: index(), tagged: index(desc("1"))}, nil, nil},
		"tagged":                      {map[string]http.HandlerFunc{tagged: index(desc("1"))}, []string{"x/1"}, nil},
		"tagged, API not allowed":     {map[string]http.HandlerFunc{api: status(http.StatusMethodNotAllowed), tagged: index(desc("1"))}, []string{"x/1"}, nil},
		"tagged, API is not built":    {map[string]http.HandlerFunc{api: status(http.StatusNotImplemented), tagged: index(desc("1"))}, []string{"x/1"}, nil},
		"tagged, API is a web page":   {map[string]http.HandlerFunc{api: answerWith("<html>", "Content-Type", "text/html"), tagged: index(desc("1"))}, []string{"x/1"}, nil},
		"the tag is of another thing": {map[string]http.HandlerFunc{tagged: answerImage()}, nil, nil},
		"none":                        {nil, nil, nil},
		"denied":                      {map[string]http.HandlerFunc{api: status(http.StatusForbidden)}, nil, ErrDenied},
		"down":                        {map[string]http.HandlerFunc{api: status(http.StatusBadGateway)}, nil, ErrUnavailable},
		"down for the tag":            {map[string]http.HandlerFunc{tagged: status(http.StatusBadGateway)}, nil, ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			mirror, _ := serve(t, status(http.StatusNotFound))
			url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if h := test.handlers[r.URL.Path]; h != nil {
					h(w, r)
					return
				}
				w.WriteHeader(http.StatusNotFound)
			})
			found, err := clientOf(t, Config{}, mirror, url).Referrers(t.Context(), "a", testDigest)
			wantKind(t, err, test.err)
			var got []string
			for _, desc := range found {
				got = append(got, desc.ArtifactType)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	sha512 := digest.SHA512.FromString("x")
	url, log := serve(t, status(http.StatusNotFound))
	if _, err := clientOf(t, Config{}, url).Referrers(t.Context(), "a", sha512); err != nil {
		t.Error(err)
	}
	if got, want := log.all()[1].URL.Path, "/v2/a/manifests/sha512-"+sha512.Encoded()[:64]; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
}

// listOf is the body of a page of tags.
func listOf(tags ...string) string {
	b, err := json.Marshal(map[string]any{"name": "a", "tags": tags})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// indexOf is the body of a page of referrers.
func indexOf(descs ...imagespec.Descriptor) string {
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": imagespec.MediaTypeImageIndex, "manifests": append([]imagespec.Descriptor{}, descs...)})
	if err != nil {
		panic(err)
	}
	return string(b)
}
