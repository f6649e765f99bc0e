package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// VerifyOptions say how all that is stored is read again.
type VerifyOptions struct {
	// BytesPerSecond bounds how much is read; 0: as much as can be.
	BytesPerSecond int64
	// Interval is that of CollectOptions.
	Interval time.Duration
	// Repair fetches again what an upstream has. nil: what only copies hold is fetched when
	// it is pulled next.
	Repair func(context.Context, Damage) error
	// Report gets a line for each finding, and how far it is. It may be nil.
	Report Report
}

// Verified is what was found.
type Verified struct {
	Blobs     int64 `json:"blobs"`
	Bytes     int64 `json:"bytes"`
	Manifests int64 `json:"manifests"`
	Damaged   int64 `json:"damaged"`  // blobs and manifests whose bytes are others, or gone
	Repaired  int64 `json:"repaired"` // of those
}

// Damage is a blob whose bytes are not what its digest says, or are gone.
type Damage struct {
	Digest digest.Digest
	// Upstream has the blob in Repository, which is a copy; empty: no upstream does.
	Upstream, Repository string
	// Own are repositories of this registry's own that hold it, some of them if there are many.
	Own []string
}

// Quarantiner is a [BlobStore] that can put bytes aside which are not to be served.
type Quarantiner interface {
	// Quarantine moves the bytes of a blob to where nobody reads them but a person, and
	// returns where that is. That there are none is no error: the place is empty then.
	Quarantine(ctx context.Context, key BlobKey) (place string, err error)
}

// ErrDamaged means that something stored is not what it was.
var ErrDamaged = errors.New("stored content is damaged")

// Verify reads all blobs and manifests again. Blobs that are not what their digest says
// are put aside and no longer served: what only copies hold leaves them, so that it is
// fetched again, and what this registry's own repositories hold is marked, until it is
// pushed or fetched again. It goes on beside everything else, and that it came to its end is
// recorded as RunVerify. ErrDamaged: something is damaged that was not repaired.
func (r *Registry) Verify(ctx context.Context, options VerifyOptions) (Verified, error) {
	waits := options.Report
	if options.Interval > 0 {
		waits = nil // nobody looks on
	}
	done, err := r.alone(ctx, r.verifying, "verify", waits) // two at once would only read everything twice
	if err != nil {
		return Verified{}, err
	}
	defer done()
	if err := r.checkInterval(ctx, RunVerify, options.Interval); err != nil {
		return Verified{}, err
	}
	v := &verifier{VerifyOptions: options, registry: r}
	if options.BytesPerSecond > 0 {
		v.limit = rate.NewLimiter(rate.Limit(options.BytesPerSecond), verifyBuffer)
	}
	if err = v.verifyBlobs(ctx); err == nil {
		err = v.verifyManifests(ctx)
	}
	if err == nil {
		err = unlessMoving(r.recordRun(ctx, RunVerify, v.found))
	}
	if err == nil && v.found.Damaged > v.found.Repaired {
		err = fmt.Errorf("%w: %d of what was found is not repaired", ErrDamaged, v.found.Damaged-v.found.Repaired)
	}
	return v.found, err
}

// verifyBuffer is how many bytes are read at a time.
const verifyBuffer = 256 << 10

// verifier is one run of Verify.
type verifier struct {
	VerifyOptions
	registry *Registry
	limit    *rate.Limiter // nil: none
	total    int64

	mu    sync.Mutex
	found Verified
}

// storedBlob is a blob as the facts knew it. Another may have its id by now: a database
// gives the ids of what is gone again.
type storedBlob struct {
	id, size int64
	digest   digest.Digest
	place    string
	damaged  bool
}

func (b *storedBlob) key() BlobKey { return BlobKey{b.digest, b.place} }

func (v *verifier) verifyBlobs(ctx context.Context) error {
	read := v.registry.database.Read(ctx)
	if err := read.QueryRow(`SELECT coalesce(sum(size), 0) FROM blobs`).Scan(&v.total); err != nil {
		return err
	}
	for last := int64(0); ; {
		page, err := storedBlobs(v.registry.database.Read(ctx), last)
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1].id
		var workers errgroup.Group
		workers.SetLimit(runtime.GOMAXPROCS(0))
		for _, b := range page {
			workers.Go(func() error { return v.verifyBlob(ctx, b) })
		}
		if err := workers.Wait(); err != nil {
			return err
		}
	}
}

func storedBlobs(q Querier, last int64) ([]storedBlob, error) {
	rows, err := q.Query(`SELECT id, size, digest, place, damaged IS NOT NULL FROM blobs WHERE id > $1 ORDER BY id LIMIT $2`, last, collectPage)
	return scanAll(rows, err, func(b *storedBlob) []any { return []any{&b.id, &b.size, &b.digest, &b.place, &b.damaged} })
}

func (v *verifier) verifyBlob(ctx context.Context, b storedBlob) error {
	wrong, err := v.check(ctx, b)
	if err != nil {
		return fmt.Errorf("reading %s: %w", b.digest, err)
	}
	v.mu.Lock()
	v.found.Blobs++
	v.mu.Unlock()
	switch {
	case wrong == "" && b.damaged:
		return v.heal(ctx, b)
	case wrong != "":
		return v.damaged(ctx, b)
	}
	return nil
}

// check returns what is wrong with the bytes of a blob, nothing if they are right.
func (v *verifier) check(ctx context.Context, b storedBlob) (wrong string, err error) {
	blob, err := v.registry.blobs.Open(ctx, b.key())
	if errors.Is(err, ErrBlobUnknown) {
		return "its bytes are gone", nil
	}
	if err != nil {
		return "", err
	}
	defer blob.Close()
	hash := b.digest.Algorithm().Hash()
	n, err := io.CopyBuffer(hash, &verifyReader{ctx: ctx, source: blob, verifier: v}, make([]byte, verifyBuffer))
	if err != nil {
		return "", err
	}
	if got := digest.NewDigest(b.digest.Algorithm(), hash); got != b.digest {
		return fmt.Sprintf("its %d bytes have digest %s", n, got), nil
	}
	if n != b.size {
		return fmt.Sprintf("it has %d bytes, not %d", n, b.size), nil
	}
	return "", nil
}

// verifyReader reads no faster than it may, and tells how far it is.
type verifyReader struct {
	ctx      context.Context
	source   io.Reader
	verifier *verifier
}

func (r *verifyReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.source.Read(p)
	v := r.verifier
	if v.limit != nil && n > 0 {
		if err := v.limit.WaitN(r.ctx, n); err != nil {
			return 0, err
		}
	}
	v.mu.Lock()
	v.found.Bytes += int64(n)
	done := v.found.Bytes
	v.mu.Unlock()
	if v.Report != nil {
		v.Report(Progress{Done: done, Total: max(v.total, done), Unit: "bytes"})
	}
	return n, err
}

func (v *verifier) tell(line string) {
	if v.Report != nil {
		v.Report(Progress{Line: line})
	}
}

// heal lets a blob be served again whose bytes somebody put back.
func (v *verifier) heal(ctx context.Context, b storedBlob) error {
	err := v.registry.database.Write(ctx, func(tx Tx) error {
		_, err := tx.Exec(`UPDATE blobs SET damaged = NULL WHERE id = $1 AND digest = $2 AND place = $3`, b.id, b.digest.String(), b.place)
		return err
	})
	if err == nil {
		v.tell(fmt.Sprintf("blob %s: its bytes are right again, and are served", b.digest))
	}
	return err
}

// damaged deals with a blob that was found to be wrong, unless it is gone or right by now.
func (v *verifier) damaged(ctx context.Context, b storedBlob) error {
	damage, wrong, place, err := v.putAside(ctx, b)
	if err != nil || wrong == "" {
		return err
	}
	line := fmt.Sprintf("blob %s: %s", b.digest, wrong)
	if place != "" {
		line += "; they are in " + place + " now"
	}
	if len(damage.Own) > 0 {
		line += "; it is not served to " + strings.Join(damage.Own, ", ") + " until it is pushed again"
	} else {
		line += "; " + damage.Repository + " fetches it again when it is pulled"
	}
	v.tell(line)
	v.mu.Lock()
	v.found.Damaged++
	v.mu.Unlock()
	if v.Repair == nil || damage.Upstream == "" {
		return nil
	}
	if err := v.Repair(ctx, damage); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.tell(fmt.Sprintf("blob %s: it cannot be fetched from %s: %v", b.digest, damage.Upstream, err))
		return nil
	}
	v.tell(fmt.Sprintf("blob %s: fetched again from %s", b.digest, damage.Upstream))
	v.mu.Lock()
	v.found.Repaired++
	v.mu.Unlock()
	return nil
}

// putAside moves wrong bytes away, and has the facts say so. The facts come first: a crash
// in between leaves bytes that nobody is given, and that are found again.
func (v *verifier) putAside(ctx context.Context, b storedBlob) (damage Damage, wrong, place string, err error) {
	r := v.registry
	lock := r.committingLock(b.digest)
	lock.Lock()
	defer lock.Unlock()
	// It may have been pushed again, or evicted.
	if wrong, err = v.check(ctx, b); err != nil || wrong == "" {
		return damage, "", "", err
	}
	err = r.database.Write(ctx, func(tx Tx) error {
		damage, err = r.markDamaged(tx, b)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return damage, "", "", nil
	}
	if err != nil {
		return damage, "", "", err
	}
	if store, ok := r.blobs.(Quarantiner); ok {
		place, err = store.Quarantine(ctx, b.key())
	} else if damage.Own == nil {
		err = r.blobs.Delete(ctx, b.key())
	}
	return damage, wrong, place, err
}

// ownTold is how many of the repositories are told that lack a damaged blob.
const ownTold = 10

// markDamaged takes a blob from all that hold it if those are copies, and else marks it.
// [sql.ErrNoRows]: it is gone.
func (r *Registry) markDamaged(tx Tx, b storedBlob) (Damage, error) {
	damage := Damage{Digest: b.digest}
	var damaged, evictable sql.NullInt64
	if err := tx.QueryRow(`SELECT damaged, evictable FROM blobs WHERE id = $1 AND digest = $2 AND place = $3`, b.id, b.digest.String(), b.place).Scan(&damaged, &evictable); err != nil {
		return damage, err
	}
	err := tx.QueryRow(`
		SELECT r.upstream, r.name FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository
		WHERE rb.blob = $1 AND r.upstream IS NOT NULL ORDER BY r.id LIMIT 1`, b.id).Scan(&damage.Upstream, &damage.Repository)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return damage, err
	}
	damage.Own, err = scanStrings(tx.Query(`
		SELECT r.name FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository
		WHERE rb.blob = $1 AND r.upstream IS NULL ORDER BY r.name LIMIT $2`, b.id, ownTold+1))
	if err != nil {
		return damage, err
	}
	if len(damage.Own) > ownTold {
		damage.Own = append(damage.Own[:ownTold], "others")
	}
	if !evictable.Valid {
		if !damaged.Valid {
			_, err = tx.Exec(`UPDATE blobs SET damaged = $1 WHERE id = $2`, now(), b.id)
		}
		return damage, err
	}
	holders, err := holdersOf(tx, b.id)
	if err != nil {
		return damage, err
	}
	for _, h := range holders {
		if err := r.letGo(tx, h.repository, b.id); err != nil {
			return damage, err
		}
	}
	_, _, err = forgetBlob(tx, b.id)
	return damage, err
}

// verifyManifests hashes the bytes of manifests, which are never served if they are
// wrong. Those of copies go, to be fetched again.
func (v *verifier) verifyManifests(ctx context.Context) error {
	for last := int64(0); ; {
		ids, err := scanIDs(v.registry.database.Read(ctx).Query(`SELECT id FROM manifests WHERE id > $1 ORDER BY id LIMIT $2`, last, collectPage))
		if err != nil || len(ids) == 0 {
			return err
		}
		last = ids[len(ids)-1]
		for _, id := range ids {
			if err := v.verifyManifest(ctx, id); err != nil {
				return err
			}
		}
	}
}

func (v *verifier) verifyManifest(ctx context.Context, id int64) error {
	var content []byte
	var upstream sql.NullString
	m := idleManifest{id: id}
	err := v.registry.database.Read(ctx).QueryRow(`
		SELECT m.digest, m.content, r.id, r.name, r.upstream FROM manifests m JOIN repositories r ON r.id = m.repository WHERE m.id = $1`, id).
		Scan(&m.digest, &content, &m.repository, &m.name, &upstream)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	v.found.Manifests++
	got := m.digest.Algorithm().FromBytes(content)
	if got == m.digest {
		return nil
	}
	v.found.Damaged++
	line := fmt.Sprintf("manifest %s@%s: its bytes have digest %s", m.name, m.digest, got)
	if !upstream.Valid {
		v.tell(line + "; it is not served until it is pushed again")
		return nil
	}
	if _, err := v.registry.evictManifest(ctx, m, now()+1); err != nil {
		return err
	}
	v.found.Repaired++
	v.tell(line + "; it is fetched again when it is pulled")
	return nil
}
