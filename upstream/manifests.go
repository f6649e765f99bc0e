package upstream

import (
	"context"
	"errors"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

type tagKey struct{ repository, tag string }

// tagState is what is known of a tag besides its manifest.
type tagState struct {
	confirmed time.Time // when the upstream last said what it names
	retry     time.Time // the upstream failed; it is asked again from then on
}

const (
	// failurePause is how long a tag is not asked for again after the upstream failed.
	failurePause = 10 * time.Second
	// lowQuotaFresh is how long a tag stays fresh while the upstream gives few answers more.
	lowQuotaFresh = time.Hour
)

// Manifest returns a manifest by digest, or the one that a tag names upstream, as far as
// that can be known.
func (v *View) Manifest(ctx context.Context, repository string, ref storage.Reference) (*storage.Manifest, error) {
	m, err := v.cache.registry.Manifest(ctx, repository, ref)
	if isAbsent(err) {
		if m, err = v.fetchManifest(ctx, ref); err != nil {
			return nil, v.explain(err, storage.ErrManifestUnknown)
		}
		v.note(Miss)
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	if err := v.cache.Access.Check(v.mapped.Remote, ""); err != nil {
		return nil, err
	}
	if ref.Digest != "" {
		v.note(Hit)
		return m, nil
	}
	return v.current(ctx, ref.Tag, m)
}

// fetchManifest returns a manifest that is not here.
func (v *View) fetchManifest(ctx context.Context, ref storage.Reference) (*storage.Manifest, error) {
	if err := v.check(ref.String()); err != nil {
		return nil, err
	}
	return ask(ctx, v.cache, "manifest "+v.mapped.Repository+" "+ref.String(), func(ctx context.Context) (*storage.Manifest, error) {
		m, err := v.getManifest(ctx, ref)
		if err != nil {
			return nil, v.remember(ref.String(), err)
		}
		return m, v.keepManifest(ctx, m, ref.Tag)
	})
}

func (v *View) getManifest(ctx context.Context, ref storage.Reference) (*storage.Manifest, error) {
	m, err := v.cache.Client.Manifest(ctx, v.mapped.Remote, ref)
	if err == nil {
		v.cache.Meter.received(int64(len(m.Content)))
	}
	return m, err
}

// keepManifest makes a manifest part of the copy. That there is no room for it, or that the
// registry is being moved, is no reason not to serve it.
func (v *View) keepManifest(ctx context.Context, m *storage.Manifest, tag string) error {
	c := v.cache
	err := c.registry.PutCached(ctx, c.Name, v.mapped.Repository, m, tag)
	if errors.Is(err, storage.ErrFull) && c.Room.make(ctx, roomStep) {
		err = c.registry.PutCached(ctx, c.Name, v.mapped.Repository, m, tag)
	}
	if errors.Is(err, storage.ErrFull) || errors.Is(err, storage.ErrMoving) {
		c.Log.Warn("a manifest cannot be kept", "repository", v.mapped.Repository, "digest", m.Digest, "error", err)
		for _, d := range m.Required {
			c.unkept.Add(v.mapped.Repository+" "+d.String(), struct{}{})
		}
		return nil
	}
	if err != nil {
		return err
	}
	if tag != "" {
		c.tags.Add(tagKey{v.mapped.Repository, tag}, tagState{confirmed: time.Now()})
	}
	if c.Prefetch {
		v.prefetch(m)
	}
	return nil
}

// current returns what a tag names, which was m when the upstream was last asked.
func (v *View) current(ctx context.Context, tag string, m *storage.Manifest) (*storage.Manifest, error) {
	c := v.cache
	state, err := v.state(ctx, tag)
	if err != nil {
		return nil, err
	}
	age := time.Since(state.confirmed)
	fresh, forever := c.Fresh.For(tag)
	if forever || age < fresh {
		v.note(Hit)
		return m, nil
	}
	if age < lowQuotaFresh && c.Client.QuotaLow() {
		v.note(Stale)
		return m, nil
	}
	mayBeStale := c.StaleIfError == 0 || age < fresh+c.StaleIfError
	if mayBeStale && (time.Now().Before(state.retry) || c.Client.Paused() != nil) {
		v.note(Stale)
		return m, nil
	}
	answer, err := v.revalidate(ctx, tag, m, mayBeStale)
	switch {
	case err == nil && answer.Digest == m.Digest:
		v.note(Revalidated)
		return answer, nil
	case err == nil:
		v.note(Miss)
		return answer, nil
	case mayBeStale && ctx.Err() == nil:
		v.note(Stale)
		return m, nil
	}
	return nil, v.explain(err, storage.ErrManifestUnknown)
}

func (v *View) state(ctx context.Context, tag string) (tagState, error) {
	key := tagKey{v.mapped.Repository, tag}
	if state, ok := v.cache.tags.Get(key); ok {
		return state, nil
	}
	confirmed, err := v.cache.registry.TagConfirmed(ctx, v.mapped.Repository, tag)
	if err != nil {
		return tagState{}, err
	}
	state := tagState{confirmed: confirmed}
	v.cache.tags.ContainsOrAdd(key, state)
	return state, nil
}

// revalidate asks the upstream what a tag names. With something to serve instead it does
// not wait for long, and while the upstream is known to be slow not at all.
func (v *View) revalidate(ctx context.Context, tag string, m *storage.Manifest, impatient bool) (*storage.Manifest, error) {
	c, what := v.cache, "tag "+v.mapped.Repository+" "+tag
	get := func(ctx context.Context) (*storage.Manifest, error) {
		began := time.Now()
		answer, err := v.askTag(ctx, tag, m)
		c.slow.Store(time.Since(began) > patience)
		if err != nil {
			v.failed(tag, err)
		}
		return answer, err
	}
	if !impatient {
		return ask(ctx, c, what, get)
	}
	if c.slow.Load() {
		return askFor(ctx, c, 0, what, get)
	}
	answer, err := askFor(ctx, c, patience, what, get)
	if err == errImpatient {
		c.slow.Store(true) // until it has answered in time again
	}
	return answer, err
}

// askTag asks by HEAD, which Docker Hub does not count as a pull.
func (v *View) askTag(ctx context.Context, tag string, m *storage.Manifest) (*storage.Manifest, error) {
	c := v.cache
	desc, err := c.Client.Head(ctx, v.mapped.Remote, storage.Reference{Tag: tag})
	if err != nil && !errors.Is(err, ErrInvalid) {
		return nil, err
	}
	if err == nil && desc.Digest != "" && desc.Digest == m.Digest {
		at := time.Now()
		c.tags.Add(tagKey{v.mapped.Repository, tag}, tagState{confirmed: at})
		if err := c.registry.ConfirmTag(ctx, v.mapped.Repository, tag, at); err != nil {
			c.Log.Warn("a tag's confirmation cannot be kept", "repository", v.mapped.Repository, "tag", tag, "error", err)
		}
		return m, nil
	}
	// Without a digest, or with one that the upstream cannot be asked by, it must be asked
	// for the whole manifest.
	ref := storage.Reference{Tag: tag}
	if err == nil && desc.Digest != "" {
		ref = storage.Reference{Digest: desc.Digest}
		if known, err := v.knownManifest(ctx, ref); err == nil {
			return known, v.keepManifest(ctx, known, tag)
		}
	}
	next, err := v.getManifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	return next, v.keepManifest(ctx, next, tag)
}

// knownManifest returns a manifest of the copy with all that it says, so that it can be
// put there again.
func (v *View) knownManifest(ctx context.Context, ref storage.Reference) (*storage.Manifest, error) {
	m, err := v.cache.registry.Manifest(ctx, v.mapped.Repository, ref)
	if err != nil {
		return nil, err
	}
	return storage.ParseManifest(m.MediaType, m.Content, m.Digest.Algorithm())
}

// failed has a tag not asked for again for a while.
func (v *View) failed(tag string, err error) {
	wait := failurePause
	var limited *RateLimitError
	if errors.As(err, &limited) {
		wait = max(wait, limited.RetryAfter)
	}
	key := tagKey{v.mapped.Repository, tag}
	state, _ := v.cache.tags.Get(key)
	state.retry = time.Now().Add(wait)
	v.cache.tags.Add(key, state)
	v.cache.Log.Info("a tag cannot be revalidated", "upstream", v.cache.Name, "repository", v.mapped.Remote, "tag", tag, "error", err)
}

// isAbsent reports whether storage lacks what was asked for.
func isAbsent(err error) bool {
	return errors.Is(err, storage.ErrManifestUnknown) || errors.Is(err, storage.ErrNameUnknown) || errors.Is(err, storage.ErrBlobUnknown)
}
