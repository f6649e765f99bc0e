package web_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/web"
)

// assetPaths returns what the pages load.
func assetPaths(t *testing.T) []string {
	t.Helper()
	var paths []string
	d := show(t, login(loginPage()))
	for n := range d.all("") {
		for _, key := range []string{"href", "src"} {
			if p := attr(n, key); strings.HasPrefix(p, web.AssetPrefix) {
				paths = append(paths, p)
			}
		}
	}
	return paths
}

// asset returns what a page loads that ends so.
func asset(t *testing.T, extension string) string {
	t.Helper()
	for _, p := range assetPaths(t) {
		if path.Ext(p) == extension {
			content, _ := io.ReadAll(getAsset(http.MethodGet, p, "").Body)
			return string(content)
		}
	}
	t.Fatalf("no page loads anything that ends in %s", extension)
	return ""
}

func getAsset(method, path, ifNoneMatch string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	if ifNoneMatch != "" {
		r.Header.Set("If-None-Match", ifNoneMatch)
	}
	w := httptest.NewRecorder()
	web.Assets().ServeHTTP(w, r)
	return w.Result()
}

func TestBrowsersKeepAssetsForEver(t *testing.T) {
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	seen := map[string]bool{}
	for _, p := range assetPaths(t) {
		resp := getAsset(http.MethodGet, p, "")
		content, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK || len(content) == 0 {
			t.Errorf("%s: %d, %d bytes", p, resp.StatusCode, len(content))
		}
		for header, want := range map[string]string{
			"Content-Type":            types[path.Ext(p)],
			"Cache-Control":           "public, max-age=31536000, immutable",
			"X-Content-Type-Options":  "nosniff",
			"Content-Security-Policy": "default-src 'none'",
		} {
			if got := resp.Header.Get(header); got != want {
				t.Errorf("%s: %s: %s", p, header, got)
			}
		}
		tag := resp.Header.Get("ETag")
		if tag != `"`+strings.TrimPrefix(p, web.AssetPrefix)+`"` {
			t.Errorf("%s: ETag %s", p, tag)
		}
		if got := getAsset(http.MethodGet, p, tag).StatusCode; got != http.StatusNotModified {
			t.Errorf("%s: %d for its own ETag", p, got)
		}
		if got := getAsset(http.MethodGet, p, `"other"`).StatusCode; got != http.StatusOK {
			t.Errorf("%s: %d for another ETag", p, got)
		}
		head := getAsset(http.MethodHead, p, "")
		if body, _ := io.ReadAll(head.Body); len(body) > 0 || head.StatusCode != http.StatusOK || head.ContentLength != int64(len(content)) {
			t.Errorf("%s: HEAD is %d with %d bytes", p, head.StatusCode, len(body))
		}
		seen[path.Ext(p)] = true
	}
	if len(seen) != len(types) {
		t.Errorf("pages load %v", seen)
	}
}

func TestAnUnknownAssetIsNotKept(t *testing.T) {
	for _, p := range []string{web.AssetPrefix, web.AssetPrefix + "0123456789abcdef.css", web.AssetPrefix + "../templates/login.html", "/assets/registry.css", "/"} {
		resp := getAsset(http.MethodGet, p, "")
		if resp.StatusCode != http.StatusNotFound || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", p, resp.StatusCode, resp.Header)
		}
	}
}

func TestAssetsAreOnlyRead(t *testing.T) {
	for _, p := range assetPaths(t) {
		resp := getAsset(http.MethodPost, p, "")
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %d, Allow %q", p, resp.StatusCode, resp.Header.Get("Allow"))
		}
	}
}

func TestAssetsLoadNothing(t *testing.T) {
	for extension, forbidden := range map[string][]string{
		".css": {"url(", "@import", "//", "expression("},
		".js":  {"http", "fetch(", "import", "eval(", "Function(", "innerHTML", "outerHTML", "document.write", "insertAdjacentHTML", "localStorage", "sessionStorage"},
		".svg": {"<script", "<style", "href", "<foreignObject", " on"},
	} {
		content := asset(t, extension)
		for _, part := range forbidden {
			if strings.Contains(content, part) {
				t.Errorf("%s has %q", extension, part)
			}
		}
	}
}
