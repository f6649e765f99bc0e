package upstream

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

const (
	maxPages     = 1000
	maxTags      = 200_000
	maxListBytes = 32 << 20 // of all pages
	tagsPage     = "1000"   // more than that some registries refuse
)

// pages asks for a list page by page, each of which take reads.
func (e *endpoint) pages(ctx context.Context, name, path string, query url.Values, take func(*http.Response, *json.Decoder) error) error {
	left := int64(maxListBytes)
	seen := make(map[string]bool)
	for more := true; more; {
		u := e.url(name, path, query)
		if len(seen) == maxPages || seen[u.RawQuery] {
			return e.fail(ErrInvalid, "%s has a list %s that leads in a circle or has more than %d pages", e.base.Host, path, maxPages)
		}
		seen[u.RawQuery] = true
		err := e.ask(ctx, http.MethodGet, name, u, nil, func(resp *http.Response) error {
			query, more = nextPage(resp.Header)
			var body io.Reader = resp.Body
			if resp.StatusCode == http.StatusOK {
				var err error
				if body, err = e.decoded(ctx, resp); err != nil {
					return err
				}
			}
			limited := &io.LimitedReader{R: body, N: left}
			err := take(resp, json.NewDecoder(limited))
			if left = limited.N; left == 0 {
				return e.fail(ErrInvalid, "%s has a list %s of more than %d bytes", e.base.Host, path, maxListBytes)
			}
			if err != nil {
				return e.explain(ctx, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// nextPage returns the query of the Link header that leads to the next page (RFC 8288).
// Only the query is of use: registries behind proxies often do not know their own scheme,
// host or path, and nothing is asked of another host with the credentials for this one.
func nextPage(header http.Header) (url.Values, bool) {
	for _, links := range header.Values("Link") {
		for links != "" {
			var target, parameters string
			_, links, _ = strings.Cut(links, "<")
			target, links, _ = strings.Cut(links, ">")
			parameters, _, _ = strings.Cut(links, "<")
			for _, parameter := range strings.FieldsFunc(parameters, func(r rune) bool { return r == ';' || r == ',' }) {
				key, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
				if strings.EqualFold(key, "rel") && strings.EqualFold(strings.Trim(value, `" `), "next") {
					if u, err := url.Parse(target); err == nil {
						return u.Query(), true
					}
				}
			}
		}
	}
	return nil, false
}

func (e *endpoint) tags(ctx context.Context, name string) ([]string, error) {
	var tags []string
	err := e.pages(ctx, name, "tags/list", url.Values{"n": {tagsPage}}, func(resp *http.Response, body *json.Decoder) error {
		if resp.StatusCode != http.StatusOK {
			return e.refused(resp)
		}
		var page struct{ Tags []string }
		if err := body.Decode(&page); err != nil {
			return err
		}
		for _, tag := range page.Tags {
			if storage.CheckTag(tag) == nil {
				tags = append(tags, tag)
			}
		}
		if len(tags) > maxTags {
			return e.fail(ErrInvalid, "%s has more than %d tags in %s", e.base.Host, maxTags, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

func (e *endpoint) referrers(ctx context.Context, name string, d digest.Digest) ([]imagespec.Descriptor, error) {
	var found []imagespec.Descriptor
	known := true
	err := e.pages(ctx, name, "referrers/"+d.String(), nil, func(resp *http.Response, body *json.Decoder) error {
		mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		switch resp.StatusCode {
		case http.StatusOK:
			if mediaType != imagespec.MediaTypeImageIndex {
				known = false // some answer with a page for people where they have no API
				return nil
			}
		case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
			known = false
			return nil
		default:
			return e.refused(resp)
		}
		var page imagespec.Index
		if err := body.Decode(&page); err != nil {
			return err
		}
		found = append(found, page.Manifests...)
		return nil
	})
	if err == nil && !known {
		found, err = e.taggedReferrers(ctx, name, d)
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(desc imagespec.Descriptor) bool {
		return desc.Digest.Validate() != nil || desc.Size < 0
	}), nil
}

// taggedReferrers is the referrers tag schema of the distribution spec.
func (e *endpoint) taggedReferrers(ctx context.Context, name string, d digest.Digest) ([]imagespec.Descriptor, error) {
	tag := d.Algorithm().String() + "-" + d.Encoded()[:min(64, len(d.Encoded()))]
	m, err := e.manifest(ctx, name, storage.Reference{Tag: tag})
	if err != nil {
		return nil, err
	}
	if m.MediaType != imagespec.MediaTypeImageIndex {
		return nil, nil
	}
	var index imagespec.Index
	if err := json.Unmarshal(m.Content, &index); err != nil {
		return nil, e.fail(ErrInvalid, "%s: %v", e.base.Host, err)
	}
	return index.Manifests, nil
}
