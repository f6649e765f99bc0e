package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// profiled runs work while the registry writes a profile of the processor, if that is
// wanted. It ends a little earlier than the work is expected to.
func (b *bench) profiled(ctx context.Context, p *peer, name string, work func() error) error {
	if b.profileDir == "" || p.name != registry {
		return work()
	}
	done := make(chan error)
	go func() {
		seconds := max(1, int(b.Duration.Seconds())-1)
		url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", p.admin, seconds)
		done <- download(ctx, url, filepath.Join(b.profileDir, name+".pprof"))
	}()
	err := work()
	return errors.Join(err, <-done)
}

func download(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644)
}
