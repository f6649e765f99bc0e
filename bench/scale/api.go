package scale

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

// Store has the bytes of new blobs where another one has them, and of those that a database
// was filled with none.
type Store struct{ storage.BlobStore }

// Open implements [storage.BlobStore].
func (s Store) Open(ctx context.Context, key storage.BlobKey) (io.ReadSeekCloser, error) {
	opened, err := s.BlobStore.Open(ctx, key)
	if errors.Is(err, storage.ErrBlobUnknown) {
		return nothing{strings.NewReader("")}, nil
	}
	return opened, err
}

type nothing struct{ *strings.Reader }

func (nothing) Close() error { return nil }

// Measure asks a registry over a database that was filled for everything that requests of
// clients and CI ask it for, rounds times, of anything in it, and returns what measured the
// statements, which is to be closed.
func Measure(ctx context.Context, blobs storage.BlobStore, database storage.Database, size Size, rounds int) (_ *Recorder, err error) {
	recorder := NewRecorder(database)
	registry := storage.New(Store{blobs}, recorder)
	quota := storage.Quota{Name: "team1/**", Bytes: 1 << 60, Match: func(name string) bool { return strings.HasPrefix(name, "team1/") }}
	if err := registry.SetQuotas(ctx, []storage.Quota{quota}); err != nil {
		return nil, errors.Join(err, registry.Close())
	}
	clear(recorder.statements) // of the start
	if err := use(ctx, registry, size, rounds); err != nil {
		return nil, errors.Join(err, registry.Close())
	}
	return recorder, errors.Join(recorder.replay(ctx), blobs.Close())
}

func use(ctx context.Context, registry *storage.Registry, size Size, rounds int) error {
	u := &user{ctx: ctx, registry: registry, accounts: registry.Accounts(), size: size, random: rand.New(rand.NewPCG(1, 2))}
	for round := range rounds {
		u.round = round
		for _, do := range []struct {
			what string
			do   func() error
		}{
			{"pull", u.pull}, {"list", u.list}, {"push", u.push}, {"mount", u.mount}, {"fetch", u.fetch},
			{"delete", u.delete}, {"sign in", u.signIn}, {"use keys", u.useKeys}, {"look after", u.lookAfter},
		} {
			if err := do.do(); err != nil {
				return fmt.Errorf("round %d: %s: %w", round, do.what, err)
			}
		}
	}
	return nil
}

type user struct {
	ctx      context.Context
	registry *storage.Registry
	accounts *storage.Accounts
	size     Size
	random   *rand.Rand
	round    int
}

// own returns the number of one of this registry's own repositories; copied of a copy.
func (u *user) own() int    { return u.random.IntN(u.size.Repositories/5)*5 + u.random.IntN(4) }
func (u *user) copied() int { return u.random.IntN(u.size.Repositories/5)*5 + 4 }

func (u *user) someTag() string { return tag(u.random.IntN(manifestsEach)) }

func (u *user) someBlob(r int) digest.Digest {
	return blobDigest(u.size.blob(r, u.random.IntN(manifestsEach), u.random.IntN(blobsEach)))
}

// all returns the first error.
func all(errs ...error) error { return errors.Join(errs...) }

func ignore[T any](_ T, err error) error { return err }

// unknown is no error if err is one of those that say that there is nothing.
func unknown(err error, of ...error) error {
	for _, target := range of {
		if errors.Is(err, target) {
			return nil
		}
	}
	return fmt.Errorf("it should have been unknown: %w", err)
}

func (u *user) pull() error {
	for _, r := range []int{u.own(), u.copied()} {
		name := u.size.repository(r)
		m, err := u.registry.Manifest(u.ctx, name, storage.Reference{Tag: u.someTag()})
		if err != nil {
			return err
		}
		blob := u.someBlob(r)
		opened, _, err := u.registry.OpenBlob(u.ctx, name, blob)
		if err != nil {
			return err
		}
		u.registry.NotePull(blob)
		err = all(opened.Close(),
			ignore(u.registry.Manifest(u.ctx, name, storage.Reference{Digest: m.Digest})),
			ignore(u.registry.StatBlob(u.ctx, name, blob)),
			ignore(u.registry.Referrers(u.ctx, name, m.Digest, "", "", 100)),
			unknown(ignore(u.registry.Manifest(u.ctx, name, storage.Reference{Tag: "none"})), storage.ErrManifestUnknown),
			unknown(ignore(u.registry.Manifest(u.ctx, "no/"+name, storage.Reference{Tag: "none"})), storage.ErrNameUnknown),
			unknown(ignore(u.registry.StatBlob(u.ctx, name, digest.FromString(fmt.Sprint("none ", u.round)))), storage.ErrBlobUnknown))
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *user) list() error {
	name := u.size.repository(u.own())
	return all(
		ignore(u.registry.Tags(u.ctx, name, u.someTag(), 50)),
		ignore(u.registry.DescribeTags(u.ctx, name, u.someTag(), 50)),
		second(u.registry.TagHistory(u.ctx, name, 0, 50)),
		ignore(u.registry.Repositories(u.ctx, u.size.repository(u.own()), 100)))
}

func second[A, B any](_ A, _ B, err error) error { return err }

// newImage returns an image of a new blob and one that the repository has.
func (u *user) newImage(r int, what string) (m *storage.Manifest, config string, err error) {
	config = fmt.Sprintf(`{"new":"%s %d"}`, what, u.round)
	content := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":1}]}`,
		imagespec.MediaTypeImageManifest, imagespec.MediaTypeImageConfig, digest.FromString(config), len(config),
		imagespec.MediaTypeImageLayerGzip, u.someBlob(r))
	m, err = storage.ParseManifest(imagespec.MediaTypeImageManifest, []byte(content), digest.SHA256)
	return m, config, err
}

type body struct{ *strings.Reader }

func (body) Interrupt() {}

func chunk(content string) storage.Chunk {
	return storage.Chunk{Body: body{strings.NewReader(content)}, Start: -1, Size: -1, Length: -1}
}

func (u *user) push() error {
	r := u.own()
	name := u.size.repository(r)
	m, config, err := u.newImage(r, "pushed")
	if err != nil {
		return err
	}
	id, err := u.registry.StartUpload(u.ctx, name, digest.SHA256)
	if err != nil {
		return err
	}
	cancelled, err := u.registry.StartUpload(u.ctx, name, digest.SHA256)
	if err != nil {
		return err
	}
	return all(
		u.registry.CheckQuota(u.ctx, name, digest.FromString(config), int64(len(config))),
		ignore(u.registry.AppendUpload(u.ctx, name, id, chunk(config))),
		ignore(u.registry.UploadSize(u.ctx, name, id)),
		ignore(u.registry.FinishUpload(u.ctx, name, id, chunk(""), digest.FromString(config))),
		u.registry.PushBlob(u.ctx, name, strings.NewReader(config), digest.FromString(config)), // which it has
		ignore(u.registry.PutManifest(u.ctx, name, m, storage.Put{Tags: []string{fmt.Sprint("pushed-", u.round)}})),
		ignore(u.registry.PutManifest(u.ctx, name, m, storage.Put{Tags: []string{u.someTag()}})), // which moves
		u.registry.CancelUpload(u.ctx, name, cancelled))
}

func (u *user) mount() error {
	from := u.own()
	to := u.size.repository(u.own())
	readable := func(string) bool { return true }
	return all(
		u.registry.MountBlob(u.ctx, to, u.size.repository(from), u.someBlob(from), readable),
		u.registry.MountBlob(u.ctx, to, "", u.someBlob(from), readable),
		u.registry.MountBlob(u.ctx, to, "", blobDigest(0), readable),
		unknown(u.registry.MountBlob(u.ctx, to, "", blobDigest(0), func(string) bool { return false }), storage.ErrBlobUnknown),
		unknown(ignore(u.registry.CachedBlob(u.ctx, "quay.io", blobDigest(0))), storage.ErrBlobUnknown))
}

// fetch is what a cache does for a tag that it has and for an image that it has not.
func (u *user) fetch() error {
	r := u.copied()
	name := u.size.repository(r)
	confirmed := u.someTag()
	m, config, err := u.newImage(r, "fetched")
	if err != nil {
		return err
	}
	d := digest.FromString(config)
	f, err := u.registry.BeginFetch(u.ctx, upstream, d)
	if err != nil {
		return err
	}
	if _, err := f.ReadFrom(strings.NewReader(config)); err != nil {
		return err
	}
	return all(
		f.Commit(u.ctx, upstream, []string{name}),
		u.registry.PutCached(u.ctx, upstream, name, m, fmt.Sprint("fetched-", u.round)),
		ignore(u.registry.TagConfirmed(u.ctx, name, confirmed)),
		u.registry.ConfirmTag(u.ctx, name, confirmed, time.Now()),
		ignore(u.registry.IsOwn(u.ctx, "library/debian")),
		ignore(u.registry.Referenced(u.ctx, name, u.someBlob(r))),
		ignore(u.registry.CachedBlob(u.ctx, upstream, d)),
		u.registry.LinkCached(u.ctx, upstream, u.size.repository(u.copied()), d))
}

func (u *user) delete() error {
	r := u.own()
	name := u.size.repository(r)
	gone := fmt.Sprint("deleted-", u.round)
	m, config, err := u.newImage(r, "deleted")
	if err != nil {
		return err
	}
	d := digest.FromString(config)
	return all(
		u.registry.PushBlob(u.ctx, name, strings.NewReader(config), d),
		ignore(u.registry.PutManifest(u.ctx, name, m, storage.Put{Tags: []string{gone}})),
		u.registry.DeleteTag(u.ctx, name, gone),
		u.registry.DeleteManifest(u.ctx, name, m.Digest),
		ignore(u.registry.RestoreTag(u.ctx, name, gone, m.Digest)),
		u.registry.DeleteManifest(u.ctx, name, m.Digest),
		u.registry.DeleteBlob(u.ctx, name, d))
}

func (u *user) signIn() error {
	now := time.Now()
	session := sha256.Sum256(fmt.Append(nil, "session ", u.round))
	of := sha256.Sum256(fmt.Append(nil, "session of a key ", u.round))
	p := storage.Person{Issuer: "https://idp.example.com/", Subject: fmt.Sprint("subject ", u.random.IntN(keys/5)), ClientID: "registry",
		Version: "1", Name: "person", Groups: []string{"ci"}, Refreshed: now, Asked: now}
	person, err := u.accounts.SignIn(u.ctx, p, session, storage.Session{Created: now, Expires: now.Add(time.Hour)})
	if err != nil {
		return err
	}
	return all(
		ignore(u.accounts.Session(u.ctx, session, now)),
		ignore(u.accounts.Person(u.ctx, person.ID)),
		ignore(u.accounts.KeysOf(u.ctx, person.ID)),
		ignore(u.accounts.PeopleToRefresh(u.ctx, "1", "registry", now, now, 10)),
		u.accounts.BeginKeySession(u.ctx, keyID(u.random.IntN(keys)), of, storage.Session{Created: now, Expires: now.Add(time.Hour)}),
		u.accounts.EndSession(u.ctx, session),
		ignore(u.accounts.SigningKeys(u.ctx)))
}

func (u *user) useKeys() error {
	now := time.Now()
	n := u.random.IntN(keys)
	k, err := u.accounts.KeyByHash(u.ctx, keyHash(n))
	if err != nil {
		return err
	}
	u.accounts.KeyUsed(k.ID, now)
	key := storage.APIKey{ID: uuid.NewString(), Label: "new", Owner: "ci", Groups: []string{"ci"}, Created: now, Expires: now.Add(time.Hour)}
	next := key
	next.ID = uuid.NewString()
	return all(
		u.accounts.FlushUsed(u.ctx),
		ignore(u.accounts.Key(u.ctx, k.ID)),
		ignore(u.accounts.KeyByID(u.ctx, k.ID)),
		u.accounts.AddKey(u.ctx, key, sha256.Sum256([]byte(key.ID))),
		u.accounts.RotateKey(u.ctx, key.ID, next, sha256.Sum256([]byte(next.ID)), now.Add(time.Minute)),
		u.accounts.RevokeKey(u.ctx, next.ID))
}

// lookAfter is what is asked now and then, whatever clients do.
func (u *user) lookAfter() error {
	return all(
		u.registry.FlushPulls(u.ctx),
		u.registry.ExpireUploads(u.ctx, time.Now().Add(-time.Hour)),
		u.registry.Check(u.ctx),
		ignore(u.registry.Damaged(u.ctx)),
		ignore(u.registry.CopiedBytes(u.ctx)),
		ignore(u.registry.LastRun(u.ctx, storage.RunCollect, nil)))
}
