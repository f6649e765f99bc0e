package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// StatBlob returns the size of a blob of the repository.
func (v *View) StatBlob(ctx context.Context, repository string, d digest.Digest) (int64, error) {
	if err := v.cache.Access.Check(v.mapped.Remote, ""); err != nil {
		return 0, err
	}
	size, err := v.cache.registry.StatBlob(ctx, repository, d)
	if !isAbsent(err) {
		if err == nil {
			v.note(Hit)
		}
		return size, err
	}
	if _, err := v.mayAsk(ctx, d); err != nil {
		return 0, err
	}
	size, err = v.statRemote(ctx, d)
	if err == nil {
		v.note(Miss)
	}
	return size, unknown(err, storage.ErrBlobUnknown)
}

func (v *View) statRemote(ctx context.Context, d digest.Digest) (int64, error) {
	return ask(ctx, v.cache, "blob "+v.mapped.Repository+" "+d.String(), func(ctx context.Context) (int64, error) {
		size, err := v.cache.Client.StatBlob(ctx, v.mapped.Remote, d)
		return size, v.remember(d.String(), err)
	})
}

// mayAsk returns why the upstream is not to be asked for a blob, or how many bytes a
// manifest says that it has, -1 if none does.
func (v *View) mayAsk(ctx context.Context, d digest.Digest) (int64, error) {
	if err := v.check(d.String()); err != nil {
		return 0, unknown(err, storage.ErrBlobUnknown)
	}
	referenced, err := v.cache.registry.Referenced(ctx, v.mapped.Repository, d)
	if err != nil {
		return 0, err
	}
	if v.mapped.ByDefault && !referenced.Named && !v.cache.unkept.Contains(v.mapped.Repository+" "+d.String()) {
		return 0, fmt.Errorf("%w: no manifest of %s names %s", storage.ErrBlobUnknown, v.mapped.Repository, d)
	}
	return referenced.Size, nil
}

// maxTries is how often a blob is looked for whose transfer ended just before.
const maxTries = 5

// OpenBlob returns the bytes and the size of a blob of the repository, which may be on
// their way still.
func (v *View) OpenBlob(ctx context.Context, repository string, d digest.Digest) (io.ReadSeekCloser, int64, error) {
	if err := v.cache.Access.Check(v.mapped.Remote, ""); err != nil {
		return nil, 0, err
	}
	for tries := 0; ; tries++ {
		blob, size, err := v.cache.registry.OpenBlob(ctx, repository, d)
		if err == nil {
			v.note(Hit)
			v.cache.pulls.note(d)
			return &served{blob, v.cache.Meter}, size, nil
		}
		if !isAbsent(err) {
			return nil, 0, err
		}
		blob, size, err = v.fetchBlob(ctx, d)
		if errors.Is(err, errEnded) && tries < maxTries {
			continue // it should be in storage by now
		}
		if err != nil {
			return nil, 0, unknown(err, storage.ErrBlobUnknown)
		}
		v.note(Miss)
		v.cache.pulls.note(d)
		return blob, size, nil
	}
}

// fetchBlob returns a blob that is not here, or errEnded if it may be by now.
func (v *View) fetchBlob(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, int64, error) {
	c := v.cache
	size, err := v.mayAsk(ctx, d)
	if err != nil {
		return nil, 0, err
	}
	linked, err := v.link(ctx, d)
	if err != nil {
		return nil, 0, err
	}
	if linked {
		return nil, 0, errEnded
	}
	source := v.source(d, size)
	if size > 0 && !c.Room.make(ctx, size) {
		return v.passThrough(ctx, source)
	}
	t, err := c.transfers.join(ctx, source, func() error {
		_, err := v.statRemote(ctx, d)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	select {
	case <-t.begun:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	total, err := t.outcome()
	if errors.Is(err, storage.ErrFull) || errors.Is(err, errOverflow) {
		return v.passThrough(ctx, source)
	}
	if err != nil && total < 0 {
		return nil, 0, v.remember(d.String(), err)
	}
	blob, err := t.reader(ctx)
	if isAbsent(err) {
		return nil, 0, errEnded // it failed after it had begun
	}
	if err != nil {
		return nil, 0, err
	}
	return blob, total, nil
}

func (v *View) source(d digest.Digest, size int64) blobSource {
	c := v.cache
	return blobSource{
		client: c.Client, upstream: c.Name, remote: v.mapped.Remote, repository: v.mapped.Repository,
		digest: d, size: size, room: c.Room, meter: c.Meter,
	}
}

// link makes a blob that another copy holds part of this one, if the upstream says that
// it has it here too. Bytes of this registry's own repositories are no way in.
func (v *View) link(ctx context.Context, d digest.Digest) (bool, error) {
	c := v.cache
	size, err := c.registry.CachedBlob(ctx, c.Name, d)
	if errors.Is(err, storage.ErrBlobUnknown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if c.transfers.isHere(ctx, v.mapped.Repository, d) {
		return true, nil // its transfer for this copy has just ended
	}
	remote, err := v.statRemote(ctx, d)
	if err != nil {
		return false, err
	}
	if remote >= 0 && remote != size {
		return false, nil
	}
	err = c.registry.LinkCached(ctx, c.Name, v.mapped.Repository, d)
	if errors.Is(err, storage.ErrBlobUnknown) {
		return false, nil // it was evicted meanwhile
	}
	return err == nil, err
}

// passThrough returns a blob that is not kept, for want of room.
func (v *View) passThrough(ctx context.Context, source blobSource) (io.ReadSeekCloser, int64, error) {
	v.cache.Log.Warn("a blob is not kept, since the disk is nearly full", "upstream", v.cache.Name, "blob", source.digest)
	body, err := source.get(ctx, 0, 0)
	if err != nil {
		return nil, 0, err
	}
	total := max(body.Size, source.size)
	if total < 0 {
		body.Close()
		return nil, 0, fmt.Errorf("%w: %s does not say how long %s is, and the disk has no room to find out", storage.ErrFull, v.cache.Name, source.digest)
	}
	s := newStream(ctx, source, total, storage.UploadState{})
	s.body = body
	return wholeStream{s}, total, nil
}

// prefetch begins the transfers of all that an image consists of.
func (v *View) prefetch(m *storage.Manifest) {
	ctx := context.Background()
	for _, d := range m.Required {
		go func() {
			if _, err := v.cache.registry.StatBlob(ctx, v.mapped.Repository, d); !isAbsent(err) {
				return
			}
			quiet := &View{cache: v.cache, mapped: v.mapped, note: func(Result) {}}
			blob, _, err := quiet.fetchBlob(ctx, d)
			if err == nil {
				blob.Close() // the transfer goes on
			}
		}()
	}
}

// served is a blob that was here, whose bytes are counted as they are sent.
type served struct {
	io.ReadSeekCloser
	meter Meter
}

func (s *served) Read(p []byte) (int, error) {
	n, err := s.ReadSeekCloser.Read(p)
	s.meter.served(int64(n))
	return n, err
}

// WriteTo implements [io.WriterTo]: the kernel copies a file.
func (s *served) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, s.ReadSeekCloser)
	s.meter.served(n)
	return n, err
}
