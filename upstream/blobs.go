package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

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
	if size, err = v.statMissing(ctx, d); err != nil {
		return 0, v.explain(err, storage.ErrBlobUnknown)
	}
	if size < 0 {
		return v.measure(ctx, repository, d)
	}
	v.note(Miss)
	return size, nil
}

// statMissing returns the size of a blob that is not here, -1 if nobody tells it.
func (v *View) statMissing(ctx context.Context, d digest.Digest) (int64, error) {
	size, err := v.mayAsk(ctx, d)
	if err != nil {
		return 0, err
	}
	remote, err := v.statRemote(ctx, d)
	return max(size, remote), err
}

// measure fetches a blob to know its size.
func (v *View) measure(ctx context.Context, repository string, d digest.Digest) (int64, error) {
	blob, size, err := v.OpenBlob(ctx, repository, d)
	if err != nil {
		return 0, err
	}
	return size, blob.Close()
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
		return 0, err
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
			v.cache.registry.NotePull(d)
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
			return nil, 0, v.explain(err, storage.ErrBlobUnknown)
		}
		v.note(Miss)
		v.cache.registry.NotePull(d)
		return blob, size, nil
	}
}

// fetchBlob returns a blob that is not here, or errEnded if it may be by now.
func (v *View) fetchBlob(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, int64, error) {
	moving, err := v.cache.registry.Moving(ctx)
	if err != nil {
		return nil, 0, err
	}
	if moving {
		size, err := v.mayAsk(ctx, d)
		if err != nil {
			return nil, 0, err
		}
		return v.passThrough(ctx, v.source(d, size))
	}
	t, total, err := v.transfer(ctx, d)
	if errors.Is(err, errOverflow) {
		return v.passThrough(ctx, v.source(d, t.size))
	}
	if err != nil {
		return nil, 0, err
	}
	blob, err := t.reader(ctx, total)
	if isAbsent(err) {
		return nil, 0, t.awaitEnd(ctx) // it failed after it had begun
	}
	if err != nil {
		return nil, 0, err
	}
	return blob, total, nil
}

// transfer returns the transfer of a blob that is not here, once it has begun. With
// errOverflow it is one that has not.
func (v *View) transfer(ctx context.Context, d digest.Digest) (*transfer, int64, error) {
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
	t, err := v.cache.transfers.join(ctx, source, func() error {
		_, err := v.statRemote(ctx, d)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	total, err := t.awaitBegin(ctx)
	if err == nil || ctx.Err() != nil || errors.Is(err, errOverflow) {
		return t, total, err
	}
	if t.repository != source.repository {
		return nil, 0, t.awaitEnd(ctx) // it may be that repository's fault
	}
	return nil, 0, v.remember(d.String(), err)
}

func (v *View) source(d digest.Digest, size int64) blobSource {
	c := v.cache
	return blobSource{
		transfers: c.transfers, client: c.Client, upstream: c.Name, remote: v.mapped.Remote, repository: v.mapped.Repository,
		digest: d, size: size, room: c.Room, meter: c.Meter,
	}
}

// link makes a blob that another copy holds part of this one, if the upstream says that
// it has it here too. Bytes of this registry's own repositories are no way in.
func (v *View) link(ctx context.Context, d digest.Digest) (bool, error) {
	c := v.cache
	if _, err := c.registry.CachedBlob(ctx, c.Name, d); err != nil {
		return false, unless(storage.ErrBlobUnknown, err)
	}
	if _, err := c.registry.StatBlob(ctx, v.mapped.Repository, d); err == nil {
		return true, nil // a transfer for this copy has just ended
	}
	if _, err := v.statRemote(ctx, d); err != nil {
		return false, err
	}
	err := c.registry.LinkCached(ctx, c.Name, v.mapped.Repository, d)
	return err == nil, unless(storage.ErrBlobUnknown, err) // it may be evicted meanwhile
}

// unless returns err if it is another one than expected.
func unless(expected, err error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// passThrough returns a blob that is not kept, since the disk cannot take it, or the registry
// is being moved.
func (v *View) passThrough(ctx context.Context, source blobSource) (io.ReadSeekCloser, int64, error) {
	c := v.cache
	ctx, cancel := context.WithCancel(ctx)
	body, err := source.get(ctx, 0, c.transfers.firstURL(source.key()))
	if err != nil {
		cancel()
		return nil, 0, v.remember(source.digest.String(), err)
	}
	total := max(body.Size, source.size)
	s := newStream(ctx, source, total, storage.UploadState{})
	s.body = body
	blob := s.passing(cancel)
	if total < 0 {
		blob.Close()
		return nil, 0, fmt.Errorf("%w: %s does not say how long %s is, and the disk has no room to find out", storage.ErrFull, c.Name, source.digest)
	}
	if total == 0 && source.digest.Algorithm().FromBytes(nil) != source.digest {
		blob.Close()
		err := fmt.Errorf("%w: nothing was sent", errSpoilt)
		c.transfers.mismatched(source, err)
		return nil, 0, err
	}
	c.Log.Warn("a blob is not kept, since the disk cannot take it", "upstream", c.Name, "blob", source.digest)
	return blob, total, nil
}

const (
	// maxPrefetch is the most layers of an image that are fetched before they are asked
	// for. Docker knows no image with more.
	maxPrefetch = 127
	// prefetchAtOnce is how many of them are asked for at a time.
	prefetchAtOnce = 8
)

// prefetch begins the transfers of all that an image consists of.
func (v *View) prefetch(m *storage.Manifest) {
	ctx, done, err := v.cache.transfers.outlive(context.Background())
	if err != nil {
		return
	}
	quiet := &View{cache: v.cache, mapped: v.mapped, note: func(Result) {}}
	go func() {
		defer done()
		var begun errgroup.Group
		begun.SetLimit(prefetchAtOnce)
		for _, d := range m.Required[:min(len(m.Required), maxPrefetch)] {
			begun.Go(func() error {
				if _, err := v.cache.registry.StatBlob(ctx, v.mapped.Repository, d); !isAbsent(err) {
					return nil
				}
				_, _, _ = quiet.transfer(ctx, d) // who asks for the blob is told what is wrong
				return nil
			})
		}
		_ = begun.Wait()
	}()
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

// URL implements [storage.Redirectable]. What a client gets elsewhere is served, too.
func (s *served) URL(ctx context.Context) (string, error) {
	elsewhere, ok := s.ReadSeekCloser.(storage.Redirectable)
	if !ok {
		return "", nil
	}
	url, err := elsewhere.URL(ctx)
	if err != nil || url == "" {
		return "", err
	}
	size, err := s.Seek(0, io.SeekEnd)
	s.meter.served(size)
	return url, err
}

// WriteTo implements [io.WriterTo]: the kernel copies a file.
func (s *served) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, s.ReadSeekCloser)
	s.meter.served(n)
	return n, err
}
