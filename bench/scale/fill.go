package scale

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

const (
	// rowsPerCommit is how many rows a transaction inserts.
	rowsPerCommit = 50_000
	// keys is how many API keys there are.
	keys = 10_000
)

// Fill fills an empty database. First are statements that are run in each transaction.
func Fill(ctx context.Context, database storage.Database, size Size, first ...string) error {
	f := &filler{ctx: ctx, database: database, first: first, size: size, at: time.Now().Add(-48 * time.Hour).Unix()}
	// Its rows do not come in its order.
	if err := f.run(`DROP INDEX repository_blobs_blob`); err != nil {
		return err
	}
	for _, step := range []func(){f.blobs, f.repositories, f.accounts} {
		if step(); f.err != nil {
			return f.err
		}
	}
	if err := f.run(`CREATE INDEX repository_blobs_blob ON repository_blobs (blob, repository)`); err != nil {
		return err
	}
	return database.Write(ctx, func(tx storage.Tx) error {
		if database, ok := database.(storage.Resequencer); ok {
			return database.Resequence(tx)
		}
		return nil
	})
}

type filler struct {
	ctx      context.Context
	database storage.Database
	first    []string
	size     Size
	at       int64
	keys     []int32 // of blobs
	tables   []*rows
	err      error
}

func (f *filler) run(statement string) error {
	return f.database.Write(f.ctx, func(tx storage.Tx) error {
		_, err := tx.Exec(statement)
		return err
	})
}

// rows are those of a table that are not written yet.
type rows struct {
	table   string
	columns []string
	values  []any
}

func (f *filler) table(name string, columns ...string) *rows {
	r := &rows{table: name, columns: columns}
	f.tables = append(f.tables, r)
	return r
}

func (r *rows) add(values ...any) { r.values = append(r.values, values...) }

// flush writes what there is, if that is enough or all.
func (f *filler) flush(all bool) {
	waiting := 0
	for _, r := range f.tables {
		waiting += len(r.values) / len(r.columns)
	}
	if f.err != nil || waiting < rowsPerCommit && !all {
		return
	}
	f.err = f.database.Write(f.ctx, func(tx storage.Tx) error {
		for _, statement := range f.first {
			if _, err := tx.Exec(statement); err != nil {
				return err
			}
		}
		for _, r := range f.tables {
			into := storage.NewInserter(tx, r.table, r.columns...)
			for row := range slices.Chunk(r.values, len(r.columns)) {
				if err := into.Add(row...); err != nil {
					return fmt.Errorf("table %s: %w", r.table, err)
				}
			}
			if err := into.Flush(); err != nil {
				return fmt.Errorf("table %s: %w", r.table, err)
			}
		}
		return nil
	})
	for _, r := range f.tables {
		r.values = r.values[:0]
	}
	if all {
		f.tables = nil
	}
}

func (f *filler) blobs() {
	var byKey []int32
	f.keys, byKey = f.size.ranks()
	blobs := f.table("blobs", "id", "digest", "size", "created", "pulled", "evictable", "place")
	for rank, blob := range byKey {
		var evictable any
		if int(blob) >= f.size.shared() && f.size.isCopy((int(blob)-f.size.shared())/(manifestsEach*ownEach)) {
			evictable = 1
		}
		blobs.add(rank+1, blobDigest(int(blob)).String(), blobSize(int(blob)), f.at, f.at+int64(blob%86_400), evictable, "")
		if f.flush(false); f.err != nil {
			return
		}
	}
	f.flush(true)
}

func (f *filler) repositories() {
	repositories := f.table("repositories", "id", "name", "created", "upstream")
	manifests := f.table("manifests", "id", "repository", "digest", "media_type", "size", "subject", "artifact_type", "annotations", "created", "untagged", "pulled", "content")
	held := f.table("repository_blobs", "repository", "blob", "created", "unreferenced")
	references := f.table("manifest_references", "repository", "digest", "manifest", "size")
	tags := f.table("tags", "repository", "name", "manifest", "updated", "confirmed")
	history := f.table("tag_history", "repository", "name", "digest", "since", "until")
	for r := range f.size.Repositories {
		var of any
		if f.size.isCopy(r) {
			of = upstream
		}
		id := r + 1
		repositories.add(id, f.size.repository(r), f.at, of)
		all := f.size.manifests(r)
		slices.SortFunc(all, func(a, b manifest) int { return strings.Compare(a.digest.String(), b.digest.String()) })
		ofNumber := make([]int, manifestsEach)
		for n, m := range all {
			manifestID := r*manifestsEach + n + 1
			ofNumber[m.number] = manifestID
			var subject any
			if m.subject != "" {
				subject = m.subject.String()
			}
			manifests.add(manifestID, id, m.digest.String(), imagespec.MediaTypeImageManifest, len(m.content), subject,
				imagespec.MediaTypeImageConfig, "", f.at, nil, f.at, m.content)
		}
		for m, manifestID := range ofNumber {
			tags.add(id, tag(m), manifestID, f.at, f.at)
		}
		for m := range 10 {
			history.add(id, tag(m), all[m].digest.String(), f.at-1000, f.at)
		}
		f.hold(r, ofNumber, held, references)
		if f.flush(false); f.err != nil {
			return
		}
	}
	f.flush(true)
}

// hold adds what a repository holds, and what its manifests name.
func (f *filler) hold(r int, manifests []int, held, references *rows) {
	type reference struct {
		blob     int
		digest   string
		manifest int
	}
	var all []reference
	for m, manifestID := range manifests {
		for n := range blobsEach {
			blob := f.size.blob(r, m, n)
			all = append(all, reference{blob, blobDigest(blob).String(), manifestID})
		}
	}
	slices.SortFunc(all, func(a, b reference) int { return strings.Compare(a.digest, b.digest) })
	last := -1
	for _, ref := range all { // in the order of digests, which is that of keys
		references.add(r+1, ref.digest, ref.manifest, blobSize(ref.blob))
		if ref.blob != last {
			held.add(r+1, f.keys[ref.blob], f.at, nil)
		}
		last = ref.blob
	}
}

func (f *filler) accounts() {
	people := f.table("people", "id", "issuer", "subject", "client_id", "version", "name", "groups", "refreshed", "asked")
	apiKeys := f.table("api_keys", "id", "hash", "label", "person", "owner", "groups", "scopes", "job", "version", "created", "expires", "used", "revoked", "lifetime", "successor")
	usage := f.table("usage", "name", "bytes")
	for n := range keys / 10 {
		people.add(n+1, "https://idp.example.com/", fmt.Sprint("subject ", n), "registry", "1", fmt.Sprint("person", n), `["ci"]`, f.at, f.at)
	}
	for n := range keys {
		hash := keyHash(n)
		apiKeys.add(keyID(n), hash[:], "ci", n%(keys/10)+1, "", `[]`, `[]`, "", "", f.at, f.at+1_000_000_000, 0, 0, 1_000_000, "")
	}
	// What they sum up nobody looks at here, except that rows are found.
	usage.add("namespace private", int64(1)<<50)
	usage.add("namespace "+upstream, int64(1)<<50)
	f.flush(true)
}
