package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// image is a small image of one layer.
type image struct {
	config, layer, manifest []byte
}

// newImage returns an image with a layer of size random bytes. No two ids give the same
// bytes, one id gives the same always.
func newImage(id uint64, size int) image {
	layer := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24), byte(id >> 32), byte(id >> 40), byte(id >> 48), byte(id >> 56)})
	random.Read(layer)
	i := image{
		config: fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, digestOf(layer)),
		layer:  layer,
	}
	i.manifest = i.manifestFor(fmt.Sprint(id))
	return i
}

// manifestFor returns a manifest of the image's own blobs that differs by its name.
func (i image) manifestFor(name string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},`+
		`"layers":[{"mediaType":%q,"digest":%q,"size":%d}],"annotations":{"org.opencontainers.image.version":%q}}`,
		manifestType, configType, digestOf(i.config), len(i.config), layerType, digestOf(i.layer), len(i.layer), name)
}

// pullID is the id of the image whose manifest is pulled.
const pullID = 0

func pulledImage() image { return newImage(pullID, 1000) }

// pushBlobs pushes what an image's manifest names.
func (c *client) pushBlobs(repository string, i image) error {
	for _, blob := range [][]byte{i.config, i.layer} {
		if err := c.pushBlob(repository, digestOf(blob), content{bytes: blob}); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) pushImage(repository, tag string, i image) error {
	if err := c.pushBlobs(repository, i); err != nil {
		return err
	}
	return c.putManifest(repository, tag, i.manifest)
}

// withClient calls f with a connection of its own.
func withClient(ctx context.Context, address string, f func(c *client) error) error {
	c, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer c.close()
	return f(c)
}

// fetch returns the body of an answer and its media type.
func (c *client) fetch(path string) (body []byte, mediaType string, err error) {
	resp, err := c.send(http.MethodGet, path, manifestType, content{})
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
		return nil, "", fmt.Errorf("GET %s: %s, length %d", path, resp.Status, resp.ContentLength)
	}
	body = make([]byte, resp.ContentLength)
	_, err = io.ReadFull(resp.Body, body)
	return body, resp.Header.Get("Content-Type"), err
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
