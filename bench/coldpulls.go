package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// coldConnections are those of one client, as containerd fetches layers.
const coldConnections = 3

// pullAtOnce has clients pull the same image and returns when the last has it.
func pullAtOnce(ctx context.Context, clients int, address, repository string) (time.Duration, error) {
	failed := make([]error, clients)
	var wait sync.WaitGroup
	start := time.Now()
	for i := range failed {
		wait.Go(func() { failed[i] = pullImage(ctx, address, repository) })
	}
	wait.Wait()
	return time.Since(start), errors.Join(failed...)
}

// layersOf is what a pull reads of a manifest.
type layersOf struct {
	Config struct{ Digest string }
	Layers []struct{ Digest string }
}

// pullImage pulls as containerd does: what the tag names, its manifest, then config and
// layers on several connections, all checked by their digests and dropped.
func pullImage(ctx context.Context, address, repository string) error {
	manifest, err := pullManifest(ctx, address, repository)
	if err != nil {
		return err
	}
	digests := make(chan string, len(manifest.Layers)+1)
	digests <- manifest.Config.Digest
	for _, layer := range manifest.Layers {
		digests <- layer.Digest
	}
	close(digests)
	_, err = parallel(ctx, coldConnections, address, func(_ context.Context, c *client, _ int) error {
		for digest := range digests {
			if _, err := c.getChecked(repository, digest); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func pullManifest(ctx context.Context, address, repository string) (manifest layersOf, err error) {
	err = withClient(ctx, address, func(c *client) error {
		path := "/v2/" + repository + "/manifests/"
		header, err := c.do(http.MethodHead, path+coldTag, manifestType, content{}, http.StatusOK)
		if err != nil {
			return err
		}
		digest := header.Get("Docker-Content-Digest")
		body, _, err := c.fetch(path + digest)
		if err != nil {
			return err
		}
		if digestOf(body) != digest {
			return fmt.Errorf("%s%s has other bytes", path, digest)
		}
		return json.Unmarshal(body, &manifest)
	})
	return manifest, err
}

// pullFirstBytes returns how long each layer's first byte took, one after the other.
func pullFirstBytes(ctx context.Context, address, repository string) ([]time.Duration, error) {
	manifest, err := pullManifest(ctx, address, repository)
	if err != nil {
		return nil, err
	}
	var latencies []time.Duration
	err = withClient(ctx, address, func(c *client) error {
		for _, layer := range manifest.Layers {
			latency, err := c.getChecked(repository, layer.Digest)
			if err != nil {
				return err
			}
			latencies = append(latencies, latency)
		}
		return nil
	})
	return latencies, err
}

// getChecked reads a blob and returns after what time its first byte came.
func (c *client) getChecked(repository, digest string) (first time.Duration, err error) {
	path := "/v2/" + repository + "/blobs/" + digest
	start := time.Now()
	resp, err := c.send(http.MethodGet, path, "", content{})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		message, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return 0, fmt.Errorf("GET %s: %s: %s", path, resp.Status, message)
	}
	if c.discard == nil {
		c.discard = make([]byte, discardSize)
	}
	hash := sha256.New()
	for {
		n, err := resp.Body.Read(c.discard)
		if n > 0 && first == 0 {
			first = time.Since(start)
		}
		hash.Write(c.discard[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("GET %s: %w", path, err)
		}
	}
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != digest {
		return 0, fmt.Errorf("GET %s: the bytes that came have %s", path, got)
	}
	return first, nil
}
