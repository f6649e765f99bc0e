package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"
)

// AssetPrefix is what the paths of all assets begin with. It is more than a folder, since
// a site may have an /assets/ of its own.
const AssetPrefix = "/assets/registry-"

//go:embed assets
var assetFiles embed.FS

type asset struct {
	content     []byte
	contentType string
}

// assets are known by their paths, which name their content, so that browsers may keep
// them for ever.
var (
	assets     = map[string]asset{}
	assetPaths = map[string]string{} // by extension
)

func init() {
	for extension, contentType := range map[string]string{
		".css": "text/css; charset=utf-8",
		".js":  "text/javascript; charset=utf-8",
		".svg": "image/svg+xml",
	} {
		content, err := assetFiles.ReadFile("assets/registry" + extension)
		if err != nil {
			panic(err)
		}
		hash := sha256.Sum256(content)
		name := AssetPrefix + hex.EncodeToString(hash[:8]) + extension
		assetPaths[extension] = name
		assets[name] = asset{content, contentType}
	}
}

func assetPath(extension string) (string, error) {
	name, ok := assetPaths[extension]
	if !ok {
		return "", fmt.Errorf("no asset ends in %s", extension)
	}
	return name, nil
}

// Assets answers what is below [AssetPrefix]: what the pages load.
func Assets() http.Handler { return http.HandlerFunc(serveAsset) }

func serveAsset(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	a, ok := assets[r.URL.Path]
	if !ok {
		h.Set("Cache-Control", "no-store")
		http.Error(w, "no such asset", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "use GET", http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", a.contentType)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Content-Security-Policy", "default-src 'none'")
	h.Set("ETag", `"`+strings.TrimPrefix(r.URL.Path, AssetPrefix)+`"`)
	http.ServeContent(w, r, path.Base(r.URL.Path), time.Time{}, bytes.NewReader(a.content))
}
