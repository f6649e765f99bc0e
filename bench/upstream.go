package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

const (
	upstreamLatency = 30 * time.Millisecond
	upstreamRate    = 40_000_000 // bytes/s of a connection
	coldTag         = "latest"
)

// upstreamCommand is what this program is started with to be the upstream, in a process
// of its own so that its work is not the clients'. Two addresses follow: the registry's,
// and that of control.
const upstreamCommand = "upstream"

func launchUpstream(_ *bench, p *peer) (*exec.Cmd, error) {
	var err error
	for _, address := range []*string{&p.address, &p.admin} {
		if *address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.Command(program, upstreamCommand, p.address, p.admin), nil
}

// serveUpstream is the upstream until the process is ended.
func serveUpstream(address, control string) error {
	// First, because a peer is up when its registry answers.
	registry := upstreamtest.New()
	ended := make(chan error, 2)
	go func() { ended <- http.ListenAndServe(control, controlHandler(registry)) }()
	registry.SetLatency(upstreamLatency)
	registry.SetRate(upstreamRate)
	go func() { ended <- http.ListenAndServe(address, registry) }()
	return <-ended
}

// controlHandler lets the program that measures add images to the upstream, remove them,
// and ask how much was sent of them.
func controlHandler(registry *upstreamtest.Registry) http.Handler {
	mux := http.NewServeMux()
	var mu sync.Mutex
	var seed uint64
	mux.HandleFunc("POST /images", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock() // layers of an image are different ones, also from those of all others
		defer mu.Unlock()
		count, err := strconv.Atoi(r.FormValue("layers"))
		size, sizeErr := strconv.Atoi(r.FormValue("size"))
		if err != nil || sizeErr != nil {
			http.Error(w, "layers and size must be numbers", http.StatusBadRequest)
			return
		}
		layers := make([][]byte, count)
		for i := range layers {
			seed++
			layers[i] = upstreamtest.Bytes(seed, size)
		}
		fmt.Fprint(w, registry.AddImage(r.FormValue("repository"), coldTag, layers...).Size())
	})
	mux.HandleFunc("DELETE /images", func(_ http.ResponseWriter, r *http.Request) {
		registry.DeleteRepository(r.FormValue("repository"))
	})
	mux.HandleFunc("GET /sent", func(w http.ResponseWriter, r *http.Request) {
		path := "^/v2/" + r.FormValue("repository") + "/"
		requests := registry.Requests().Path(path)
		// What clients have may still be on its way to the cache.
		for end := time.Now().Add(10 * time.Second); len(requests.Active()) > 0 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
			requests = registry.Requests().Path(path)
		}
		fmt.Fprint(w, requests.Sent())
	})
	return mux
}

// upstreamControl speaks with controlHandler at an address.
type upstreamControl struct{ address string }

// addImage adds an image that is like no other and returns how many bytes it has.
func (u upstreamControl) addImage(ctx context.Context, repository string, layers int, size int64) (int64, error) {
	return u.do(ctx, http.MethodPost, "/images", url.Values{
		"repository": {repository}, "layers": {strconv.Itoa(layers)}, "size": {strconv.FormatInt(size, 10)},
	})
}

func (u upstreamControl) deleteImage(ctx context.Context, repository string) error {
	_, err := u.do(ctx, http.MethodDelete, "/images", url.Values{"repository": {repository}})
	return err
}

// sent returns how many bytes the upstream has sent of a repository.
func (u upstreamControl) sent(ctx context.Context, repository string) (int64, error) {
	return u.do(ctx, http.MethodGet, "/sent", url.Values{"repository": {repository}})
}

func (u upstreamControl) do(ctx context.Context, method, path string, query url.Values) (n int64, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+u.address+path+"?"+query.Encode(), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, body)
	}
	if len(body) == 0 {
		return 0, nil
	}
	return n, json.Unmarshal(body, &n)
}
