package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/storage"
)

// control is how the command line reaches the registry that a process has open: HTTP on
// a Unix socket in the storage directory, which only its owner may enter.
type control struct {
	server *http.Server
	path   string
	target string // where the socket is, if not at path
}

// maxSocketPath is what every system takes as the path of a Unix socket.
const maxSocketPath = 100

// listenControl serves the control of a registry on a socket at path. Where a path is too
// long for a socket it is a link to a socket in the system's folder for temporary files.
func listenControl(path string, handler http.Handler, log *slog.Logger) (*control, error) {
	c := &control{path: path}
	// The storage is locked, so what is there is left from a process that was killed.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	address := path
	if len(path) > maxSocketPath {
		folder, err := os.MkdirTemp("", "registry")
		if err != nil {
			return nil, err
		}
		c.target = folder
		address = filepath.Join(folder, "control.sock")
		if err := os.Symlink(address, path); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("unix", address)
	if err != nil {
		return nil, err
	}
	// Its folder may have been there, for others to enter too.
	if err := os.Chmod(address, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	c.server = &http.Server{Handler: handler}
	go func() {
		if err := c.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("control socket", "error", err)
		}
	}()
	return c, nil
}

func (c *control) close() error {
	err := c.server.Close()
	if c.target != "" {
		err = errors.Join(err, os.Remove(c.path), os.RemoveAll(c.target))
	}
	return err
}

// dialControl connects to the socket at path.
func dialControl(ctx context.Context, path string) (net.Conn, error) {
	if target, err := os.Readlink(path); err == nil {
		path = target
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// controlHandler does what commands ask for. Errors are plain text of one line.
func (o *openRegistry) controlHandler() http.Handler {
	registry, audit := o.registry, slog.New(o.audit)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		overview, err := registry.Overview(r.Context())
		answerControl(w, overview, err)
	})
	mux.HandleFunc("DELETE /content", func(w http.ResponseWriter, r *http.Request) {
		repository, reference := r.FormValue("repository"), r.FormValue("reference")
		err := deleteContent(r.Context(), registry, repository, reference)
		if err == nil {
			audit.InfoContext(r.Context(), string(distribution.Deleted), "repository", repository, "reference", reference, "by", "command")
		}
		answerControl(w, struct{}{}, err)
	})
	addKeyControl(mux, registry.Accounts(), audit)
	o.addTagControl(mux, audit)
	o.addWorkControl(mux, audit)
	return mux
}

func answerControl(w http.ResponseWriter, answer any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the command may have been interrupted
}

// deleteContent deletes a tag or a manifest, or with an empty reference a repository.
func deleteContent(ctx context.Context, registry *storage.Registry, repository, reference string) error {
	if err := storage.CheckName(repository); err != nil {
		return err
	}
	if reference == "" {
		return registry.DeleteRepository(ctx, repository)
	}
	ref, err := storage.ParseReference(reference)
	if err != nil {
		return err
	}
	if ref.Digest != "" {
		return registry.DeleteManifest(ctx, repository, ref.Digest)
	}
	return registry.DeleteTag(ctx, repository, ref.Tag)
}

// controlClient speaks to the registry of an app: to the process that has its storage
// open, else to this one, which opens it until close is called.
type controlClient struct {
	http  *http.Client
	close func() error
}

func newControlClient(ctx context.Context, app *App) (*controlClient, error) {
	path := filepath.Join(app.storage.Directory(), "control.sock")
	client := &controlClient{
		http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialControl(ctx, path) },
		}},
		close: func() error { return nil },
	}
	for began := time.Now(); ; {
		if conn, err := dialControl(ctx, path); err == nil {
			return client, conn.Close()
		}
		_, err := app.open()
		if err == nil {
			client.close = app.Cleanup
			return client, nil
		}
		if !errors.Is(err, storage.ErrInUse) || time.Since(began) > startPatience {
			return nil, err
		}
		select {
		case <-time.After(startPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

const (
	// startPatience is how long it is waited for a server that has the storage and does not
	// answer: it may be about to start, or to end.
	startPatience = 10 * time.Second
	// startPause is how long before it is asked again.
	startPause = 100 * time.Millisecond
)

// do makes a request without a body and decodes its answer.
func (c *controlClient) do(ctx context.Context, method, path string, answer any) error {
	return c.send(ctx, method, path, nil, answer)
}

// send makes one request and decodes its answer. Without a body, which is sent as JSON,
// that is nil.
func (c *controlClient) send(ctx context.Context, method, path string, body, answer any) error {
	var content bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, &content)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		message := make([]byte, 4096)
		n, _ := resp.Body.Read(message)
		return errors.New(firstLine(string(message[:n])))
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("answer of the server: %w", err)
	}
	return nil
}
