package upstream

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
)

// memoryClient returns a client of http://up.test whose connections are in memory, so
// that time stands still while requests are under way in a synctest bubble.
func memoryClient(t *testing.T, config Config, h http.HandlerFunc) (*Client, *requestLog) {
	t.Helper()
	log := new(requestLog)
	listener := &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.add(r)
		h(w, r)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	if config.dial == nil {
		config.dial = listener.dial
	}
	return clientOf(t, config, "http://up.test"), log
}

type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *memoryListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }
