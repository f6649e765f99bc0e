package storage

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
)

// BlobStore keeps the bytes of blobs by digest, shared by all repositories, and of
// uploads on their way to become blobs. It knows nothing of repositories: which of them
// holds a blob is a fact in the [Database]. Package storagetest tells what every
// implementation must do.
type BlobStore interface {
	// Open returns the bytes of a blob, or ErrBlobUnknown. What is opened stays readable
	// when the blob is deleted meanwhile.
	Open(ctx context.Context, key BlobKey) (io.ReadSeekCloser, error)
	// Delete removes the bytes of a blob; that there are none is no error.
	Delete(ctx context.Context, key BlobKey) error
	// Blobs lists the blobs that there are bytes of, in no order. What is added or deleted
	// meanwhile may be among them or not. A store that other processes write to leaves out
	// what is younger than MinOrphan: its fact may be on its way.
	Blobs(ctx context.Context) iter.Seq2[BlobKey, error]

	// Writer goes on with the upload id, a UUID, from the state that Suspend gave in this
	// or an earlier process; a state of size 0 begins it. The writer may hold more bytes
	// than the state says, if a process ended while it wrote and the state is not Exact, or
	// fewer, if the machine did. ErrUploadUnknown: the bytes are gone.
	Writer(ctx context.Context, id string, state UploadState) (BlobWriter, error)
	// OpenUpload returns what a writer of the upload has been given, and will be: reading
	// comes to an end where the writer is. It stays readable when the upload has become a
	// blob or is discarded. ErrUploadUnknown: there is none.
	OpenUpload(ctx context.Context, id string) (io.ReadSeekCloser, error)
	// Discard removes all that is kept of an upload; that there is nothing is no error.
	Discard(ctx context.Context, id string) error
	// Uploads lists the uploads that take room, those that a crash orphaned among them.
	Uploads(ctx context.Context) iter.Seq2[string, error]

	// Close releases the store. Nothing is written after it.
	Close() error
}

// Borrow returns a store that stays open when a registry over it is closed.
func Borrow(store BlobStore) BlobStore { return borrowed{store} }

type borrowed struct{ BlobStore }

func (borrowed) Close() error { return nil }

// Redirectable is what a store opens whose clients may get the bytes from elsewhere.
type Redirectable interface {
	// URL returns where that is, for a while, to whoever has it; empty: only here.
	URL(ctx context.Context) (string, error)
}

// BlobKey names the bytes of a blob.
type BlobKey struct {
	Digest digest.Digest
	// Place is where a store put them that may have the same blob in several: what one
	// process deletes is then never what another has just put there. Empty: the store has
	// one place for each digest, or any will do.
	Place string
}

// MaxPending is how long after its bytes began to be written the fact of a blob may come.
const MaxPending = 6 * time.Hour

// MinOrphan is how old bytes are, by the clock of their store, before they are taken for those
// of a blob whose fact will not come: clocks may differ.
const MinOrphan = MaxPending + 2*time.Hour

// BlobWriter appends to one upload. It is used by one goroutine at a time, and ended by
// one of Commit, Suspend and Discard; of the others Discard may follow.
type BlobWriter interface {
	// ReadFrom appends all of r. When r fails, what was read until then is kept. What one
	// Read gave can be read by OpenUpload when Read is called again. ErrFull: there is no
	// room.
	io.ReaderFrom
	// Size returns how many bytes the upload has.
	Size() int64
	// Verify returns ErrDigestInvalid unless the bytes so far, and then rest, are the blob d.
	Verify(d digest.Digest, rest []byte) error
	// Commit makes the upload the blob d, and returns its place. When it returns nil the
	// blob is there and survives a loss of power; what is left of the upload then stays
	// until it is discarded. If the bytes have another digest it returns ErrDigestInvalid
	// and the upload is as it was.
	Commit(ctx context.Context, d digest.Digest) (place string, err error)
	// Suspend ends the writer and returns what [BlobStore.Writer] needs to go on.
	Suspend() (UploadState, error)
	// Discard ends the writer and removes what this process has of the upload. What an
	// earlier Suspend gave to other processes, too, stays until [BlobStore.Discard].
	Discard() error
}

// UploadState is where an upload stands.
type UploadState struct {
	Algorithm digest.Algorithm
	Size      int64  // bytes that Hash covers
	Hash      []byte // the marshaled hash of those bytes
	Store     []byte // the store's own, such as where the parts of an upload are
	Exact     bool   // what it has beyond Size is not wanted
}
