package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// client is one keep-alive connection. It does as little as it can, because it shares
// the machine with the server that it measures.
type client struct {
	conn    net.Conn
	reader  *bufio.Reader
	address string
	head    []byte // of the request, reused
	discard []byte // what is read of a blob, reused
	stop    func() bool
}

// discardSize is how much of a blob is read at a time: enough for few system calls, and
// little enough to stay in a processor's cache.
const discardSize = 256 << 10

// dial connects to a server. When ctx ends the connection is cut.
func dial(ctx context.Context, address string) (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &client{
		conn:    conn,
		reader:  bufio.NewReaderSize(conn, 4<<10),
		address: address,
		stop:    context.AfterFunc(ctx, func() { conn.Close() }),
	}, nil
}

func (c *client) close() {
	c.stop()
	c.conn.Close()
}

// content is the body of a request: the start of a file, which the kernel sends by
// itself, and then bytes. Either may be missing.
type content struct {
	file     *os.File
	fileSize int64
	bytes    []byte
}

// send makes a request and returns the answer, whose body is still to be read.
func (c *client) send(method, path, mediaType string, body content) (*http.Response, error) {
	reads := method == http.MethodGet || method == http.MethodHead
	b := append(c.head[:0], method...)
	b = append(b, ' ')
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.address...)
	b = append(b, "\r\n"...)
	if mediaType != "" {
		if reads {
			b = append(b, "Accept: "...)
		} else {
			b = append(b, "Content-Type: "...)
		}
		b = append(b, mediaType...)
		b = append(b, "\r\n"...)
	}
	if !reads {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, body.fileSize+int64(len(body.bytes)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	if body.file == nil {
		b = append(b, body.bytes...)
	}
	c.head = b
	if _, err := c.conn.Write(b); err != nil {
		return nil, err
	}
	if body.file != nil {
		if _, err := body.file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		if _, err := io.CopyN(c.conn, body.file, body.fileSize); err != nil {
			return nil, err
		}
		if _, err := c.conn.Write(body.bytes); err != nil {
			return nil, err
		}
	}
	return http.ReadResponse(c.reader, &http.Request{Method: method})
}

// do makes a request, drops the body of its answer and returns its header, or an error
// if it has another status.
func (c *client) do(method, path, mediaType string, body content, status int) (http.Header, error) {
	resp, err := c.send(method, path, mediaType, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != status {
		message, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, message)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Header, err
}

// get reads an answer without keeping it and returns the size of its body.
func (c *client) get(path string) (int64, error) {
	resp, err := c.send(http.MethodGet, path, "", content{})
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
		return 0, fmt.Errorf("GET %s: %s, length %d", path, resp.Status, resp.ContentLength)
	}
	if c.discard == nil {
		c.discard = make([]byte, discardSize)
	}
	buffered := min(int64(c.reader.Buffered()), resp.ContentLength)
	if _, err := c.reader.Discard(int(buffered)); err != nil {
		return 0, err
	}
	// Past the small buffer of the reader, which would be a copy of each byte more.
	for left := resp.ContentLength - buffered; left > 0; {
		n, err := c.conn.Read(c.discard[:min(left, discardSize)])
		if err != nil {
			return 0, err
		}
		left -= int64(n)
	}
	return resp.ContentLength, nil
}

// pushBlob pushes a blob as containerd does: POST, then one PUT.
func (c *client) pushBlob(repository, digest string, body content) error {
	header, err := c.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "", content{}, http.StatusAccepted)
	if err != nil {
		return err
	}
	path, err := withDigest(header.Get("Location"), digest)
	if err != nil {
		return err
	}
	_, err = c.do(http.MethodPut, path, "application/octet-stream", body, http.StatusCreated)
	return err
}

// withDigest returns the path and query by which an upload is finished. A Location may
// be a whole URL and may have a query, which belongs to the upload.
func withDigest(location, digest string) (string, error) {
	u, err := url.Parse(location)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(u.Path, "/") {
		return "", fmt.Errorf("upload is at %q, which is no absolute path", location)
	}
	query := "digest=" + digest
	if u.RawQuery != "" {
		query = u.RawQuery + "&" + query
	}
	return u.EscapedPath() + "?" + query, nil
}

func (c *client) putManifest(repository, tag string, manifest []byte) error {
	_, err := c.do(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, manifestType, content{bytes: manifest}, http.StatusCreated)
	return err
}

// parallel runs f on n connections at once and returns how long that took. The first
// error ends the others.
func parallel(ctx context.Context, n int, address string, f func(ctx context.Context, c *client, i int) error) (time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clients := make([]*client, n)
	for i := range clients {
		c, err := dial(ctx, address)
		if err != nil {
			return 0, err
		}
		defer c.close()
		clients[i] = c
	}
	done := make(chan struct{})
	start := time.Now()
	for i, c := range clients {
		go func() {
			defer func() { done <- struct{}{} }()
			if err := f(ctx, c, i); err != nil {
				cancel(err)
			}
		}()
	}
	for range clients {
		<-done
	}
	return time.Since(start), context.Cause(ctx)
}
