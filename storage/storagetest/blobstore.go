package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// TestBlobStore tests a blob store. fresh makes an empty one, which what it returns
// opens, again after it was closed.
func TestBlobStore(t *testing.T, fresh func(testing.TB) func() (storage.BlobStore, error)) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *blobStore)
	}{
		{"a committed blob has its bytes, also after a restart", testCommit},
		{"an empty blob is a blob", testEmptyBlob},
		{"a blob is committed by another algorithm than its upload began with", testOtherAlgorithm},
		{"another digest is refused and the upload stays as it was", testDigestMismatch},
		{"a suspended upload goes on, also after a restart", testSuspend},
		{"bytes behind the state are kept or lost, never wrong", testStateBehind},
		{"bytes behind an exact state are gone", testExactState},
		{"what was read of a broken body is kept", testBrokenBody},
		{"a discarded upload is gone", testDiscard},
		{"a deleted blob is gone, but not for who reads it", testDeleteBlob},
		{"uploads that take room are listed", testListUploads},
		{"uploads of the same blob at once", testSameBlob},
		{"large writes arrive whole", testLargeWrite},
		{"an upload can be read while it is written, and after", testOpenUpload},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &blobStore{t: t, open: fresh(t)}
			s.restart()
			t.Cleanup(func() { s.Close() })
			test.run(t, s)
		})
	}
}

type blobStore struct {
	storage.BlobStore
	t    testing.TB
	open func() (storage.BlobStore, error)
}

func (s *blobStore) restart() {
	s.t.Helper()
	if s.BlobStore != nil {
		if err := s.Close(); err != nil {
			s.t.Fatalf("Close: %v", err)
		}
	}
	var err error
	if s.BlobStore, err = s.open(); err != nil {
		s.t.Fatalf("open: %v", err)
	}
}

func (s *blobStore) writer(id string, state storage.UploadState) storage.BlobWriter {
	s.t.Helper()
	if state.Algorithm == "" {
		state.Algorithm = digest.SHA256
	}
	w, err := s.Writer(context.Background(), id, state)
	if err != nil {
		s.t.Fatalf("Writer: %v", err)
	}
	return w
}

func (s *blobStore) write(w storage.BlobWriter, content string) {
	s.t.Helper()
	if n, err := w.ReadFrom(strings.NewReader(content)); err != nil || n != int64(len(content)) {
		s.t.Fatalf("ReadFrom = %d, %v, want %d", n, err, len(content))
	}
}

// wantBytes checks what a blob has.
func (s *blobStore) wantBytes(d digest.Digest, want string) {
	s.t.Helper()
	f, err := s.Open(context.Background(), storage.BlobKey{Digest: d})
	if err != nil {
		s.t.Errorf("Open %s: %v", d, err)
		return
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || string(got) != want {
		s.t.Errorf("blob %s has %d bytes, %v, want %d", d, len(got), err, len(want))
	}
	if size, err := f.Seek(0, io.SeekEnd); err != nil || size != int64(len(want)) {
		s.t.Errorf("end of blob %s is %d, %v, want %d", d, size, err, len(want))
	}
	if _, err := f.Seek(int64(len(want)/2), io.SeekStart); err != nil {
		s.t.Errorf("Seek: %v", err)
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != want[len(want)/2:] {
		s.t.Errorf("second half of blob %s is %d other bytes, %v", d, len(got), err)
	}
}

func (s *blobStore) wantNoBlob(d digest.Digest) {
	s.t.Helper()
	_, err := s.Open(context.Background(), storage.BlobKey{Digest: d})
	wantError(s.t, "Open", err, storage.ErrBlobUnknown)
}

func (s *blobStore) uploads() (ids []string) {
	s.t.Helper()
	for id, err := range s.Uploads(context.Background()) {
		if err != nil {
			s.t.Fatalf("Uploads: %v", err)
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (s *blobStore) commit(w storage.BlobWriter, d digest.Digest) {
	s.t.Helper()
	if _, err := w.Commit(context.Background(), d); err != nil {
		s.t.Fatalf("Commit: %v", err)
	}
	if err := w.Discard(); err != nil {
		s.t.Errorf("Discard of what is left: %v", err)
	}
}

func (s *blobStore) suspend(w storage.BlobWriter) storage.UploadState {
	s.t.Helper()
	size := w.Size()
	state, err := w.Suspend()
	if err != nil {
		s.t.Fatalf("Suspend: %v", err)
	}
	if state.Size != size {
		s.t.Errorf("Suspend: size %d, want %d", state.Size, size)
	}
	return state
}

func testCommit(t *testing.T, s *blobStore) {
	for _, d := range []digest.Digest{digest.SHA256.FromString("some bytes"), digest.SHA512.FromString("some bytes")} {
		s.wantNoBlob(d)
		w := s.writer(uuid.NewString(), storage.UploadState{Algorithm: d.Algorithm()})
		s.write(w, "some ")
		s.wantNoBlob(d)
		s.write(w, "bytes")
		if w.Size() != 10 {
			t.Errorf("Size = %d, want 10", w.Size())
		}
		s.commit(w, d)
		s.wantBytes(d, "some bytes")
		s.restart()
		s.wantBytes(d, "some bytes")
	}
	if ids := s.uploads(); len(ids) > 0 {
		t.Errorf("committed uploads %v still take room", ids)
	}
}

func testEmptyBlob(t *testing.T, s *blobStore) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := algorithm.FromString("")
		w := s.writer(uuid.NewString(), storage.UploadState{Algorithm: digest.SHA256})
		s.commit(w, d)
		s.wantBytes(d, "")
	}
}

func testOtherAlgorithm(t *testing.T, s *blobStore) {
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		for _, b := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			content := fmt.Sprintf("begun as %s, ended as %s", a, b)
			id := uuid.NewString()
			w := s.writer(id, storage.UploadState{Algorithm: a})
			s.write(w, content[:5])
			state := s.suspend(w)
			w = s.writer(id, state)
			s.write(w, content[5:])
			s.commit(w, b.FromString(content))
			s.wantBytes(b.FromString(content), content)
		}
	}
}

func testDigestMismatch(t *testing.T, s *blobStore) {
	id := uuid.NewString()
	w := s.writer(id, storage.UploadState{})
	s.write(w, "abc")
	for _, wrong := range []digest.Digest{digest.SHA256.FromString("abd"), digest.SHA512.FromString("abd")} {
		_, err := w.Commit(context.Background(), wrong)
		wantError(t, "Commit", err, storage.ErrDigestInvalid)
		s.wantNoBlob(wrong)
	}
	if w.Size() != 3 {
		t.Errorf("Size = %d after a refused Commit, want 3", w.Size())
	}
	s.write(w, "def")
	w = s.writer(id, s.suspend(w))
	s.write(w, "ghi")
	s.commit(w, digest.FromString("abcdefghi"))
	s.wantBytes(digest.FromString("abcdefghi"), "abcdefghi")
}

func testSuspend(t *testing.T, s *blobStore) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		id := uuid.NewString()
		state := storage.UploadState{Algorithm: algorithm}
		var content string
		for i := range 5 {
			w := s.writer(id, state)
			if w.Size() != int64(len(content)) {
				t.Fatalf("upload goes on at %d, want %d", w.Size(), len(content))
			}
			piece := strings.Repeat("x", i*1000) // the first is empty
			s.write(w, piece)
			content += piece
			state = s.suspend(w)
			if state.Algorithm != algorithm {
				t.Errorf("Suspend: algorithm %s, want %s", state.Algorithm, algorithm)
			}
			if i%2 == 1 {
				s.restart()
			}
		}
		s.commit(s.writer(id, state), algorithm.FromString(content))
		s.wantBytes(algorithm.FromString(content), content)
	}
}

func testStateBehind(t *testing.T, s *blobStore) {
	const content = "known to the facts, and not"
	const known = len("known to the facts")
	id := uuid.NewString()
	w := s.writer(id, storage.UploadState{})
	s.write(w, content[:known])
	state := s.suspend(w)
	w = s.writer(id, state)
	s.write(w, content[known:])
	s.suspend(w) // this state is lost: the process ended before it was recorded

	w = s.writer(id, state)
	if w.Size() < int64(known) || w.Size() > int64(len(content)) {
		t.Fatalf("Size = %d, want between %d and %d", w.Size(), known, len(content))
	}
	s.write(w, content[w.Size():]+"!")
	s.commit(w, digest.FromString(content+"!"))
	s.wantBytes(digest.FromString(content+"!"), content+"!")
}

func testExactState(t *testing.T, s *blobStore) {
	for _, known := range []string{"", "known to the facts"} {
		for _, restart := range []bool{false, true} {
			id := uuid.NewString()
			w := s.writer(id, storage.UploadState{})
			s.write(w, known)
			state := s.suspend(w)
			w = s.writer(id, state)
			s.write(w, " and more than is sent again")
			s.suspend(w) // this state is lost
			if restart {
				s.restart()
			}
			state.Exact = true
			w = s.writer(id, state)
			if w.Size() != int64(len(known)) {
				t.Fatalf("Size = %d, want %d", w.Size(), len(known))
			}
			s.write(w, ", and this")
			s.commit(w, digest.FromString(known+", and this"))
			s.wantBytes(digest.FromString(known+", and this"), known+", and this")
		}
	}
}

func testBrokenBody(t *testing.T, s *blobStore) {
	broken := newBody("ab")
	broken.err = errors.New("connection reset")
	w := s.writer(uuid.NewString(), storage.UploadState{})
	n, err := w.ReadFrom(broken)
	if n != 2 || !errors.Is(err, broken.err) {
		t.Errorf("ReadFrom = %d, %v, want 2, %v", n, err, broken.err)
	}
	if w.Size() != 2 {
		t.Errorf("Size = %d, want 2", w.Size())
	}
	s.write(w, "c")
	s.commit(w, digest.FromString("abc"))
	s.wantBytes(digest.FromString("abc"), "abc")
}

func testDiscard(t *testing.T, s *blobStore) {
	ctx := context.Background()
	id := uuid.NewString()
	w := s.writer(id, storage.UploadState{})
	s.write(w, "abc")
	if err := w.Discard(); err != nil {
		t.Errorf("Discard: %v", err)
	}
	w = s.writer(id, storage.UploadState{})
	s.write(w, "abc")
	state := s.suspend(w)
	for range 2 {
		if err := s.Discard(ctx, id); err != nil {
			t.Errorf("Discard: %v", err)
		}
	}
	if ids := s.uploads(); len(ids) > 0 {
		t.Errorf("discarded uploads %v still take room", ids)
	}
	_, err := s.Writer(ctx, id, state)
	wantError(t, "Writer of a discarded upload", err, storage.ErrUploadUnknown)

	// A commit that was refused is followed by a discard.
	w = s.writer(uuid.NewString(), storage.UploadState{})
	s.write(w, "abc")
	_, err = w.Commit(ctx, digest.FromString("other"))
	wantError(t, "Commit", err, storage.ErrDigestInvalid)
	if err := w.Discard(); err != nil {
		t.Errorf("Discard: %v", err)
	}
	if ids := s.uploads(); len(ids) > 0 {
		t.Errorf("refused uploads %v still take room", ids)
	}
	s.wantNoBlob(digest.FromString("abc"))
}

func testDeleteBlob(t *testing.T, s *blobStore) {
	ctx := context.Background()
	d := digest.FromString("abc")
	if err := s.Delete(ctx, storage.BlobKey{Digest: d}); err != nil {
		t.Errorf("Delete of what is not there: %v", err)
	}
	w := s.writer(uuid.NewString(), storage.UploadState{})
	s.write(w, "abc")
	s.commit(w, d)
	reader, err := s.Open(ctx, storage.BlobKey{Digest: d})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer reader.Close()
	if err := s.Delete(ctx, storage.BlobKey{Digest: d}); err != nil {
		t.Errorf("Delete: %v", err)
	}
	s.wantNoBlob(d)
	if got, err := io.ReadAll(reader); err != nil || string(got) != "abc" {
		t.Errorf("a deleted blob that is being read has %q, %v", got, err)
	}
	w = s.writer(uuid.NewString(), storage.UploadState{})
	s.write(w, "abc")
	s.commit(w, d)
	s.wantBytes(d, "abc")
}

func testListUploads(t *testing.T, s *blobStore) {
	var want []string
	for range 5 {
		id := uuid.NewString()
		w := s.writer(id, storage.UploadState{})
		s.write(w, "abc")
		s.suspend(w)
		want = append(want, id)
	}
	slices.Sort(want)
	if got := s.uploads(); !slices.Equal(got, want) {
		t.Errorf("Uploads = %v, want %v", got, want)
	}
	s.restart()
	if got := s.uploads(); !slices.Equal(got, want) {
		t.Errorf("Uploads after a restart = %v, want %v", got, want)
	}
	for range s.Uploads(context.Background()) {
		break // that nothing follows must not matter
	}
}

func testSameBlob(t *testing.T, s *blobStore) {
	for round := range 20 {
		content := strings.Repeat(fmt.Sprint("round ", round), 10_000)
		d := digest.FromString(content)
		push := func() error {
			w, err := s.Writer(context.Background(), uuid.NewString(), storage.UploadState{Algorithm: digest.SHA256})
			if err != nil {
				return err
			}
			if _, err := w.ReadFrom(strings.NewReader(content)); err != nil {
				return err
			}
			if _, err := w.Commit(context.Background(), d); err != nil {
				return err
			}
			if err := w.Discard(); err != nil {
				return err
			}
			// From now on it must be there, whole, whatever the others do.
			f, err := s.Open(context.Background(), storage.BlobKey{Digest: d})
			if err != nil {
				return err
			}
			defer f.Close()
			got, err := io.ReadAll(f)
			if err == nil && string(got) != content {
				err = fmt.Errorf("%d other bytes", len(got))
			}
			return err
		}
		for _, err := range together(push, push, push, push) {
			if err != nil {
				t.Error(err)
			}
		}
	}
	if ids := s.uploads(); len(ids) > 0 {
		t.Errorf("committed uploads %v still take room", ids)
	}
}

func testLargeWrite(t *testing.T, s *blobStore) {
	content := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB, larger than buffers are
	id := uuid.NewString()
	w := s.writer(id, storage.UploadState{})
	s.write(w, content[:700_001])
	w = s.writer(id, s.suspend(w))
	s.write(w, content[700_001:])
	s.commit(w, digest.FromString(content))
	s.wantBytes(digest.FromString(content), content)
}

// stepwise gives one piece with each Read, and calls between before the next one.
type stepwise struct {
	left    []string
	between func()
}

func (p *stepwise) Read(b []byte) (int, error) {
	p.between()
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.left[0])
	p.left = p.left[1:]
	return n, nil
}

func testOpenUpload(t *testing.T, s *blobStore) {
	ctx := context.Background()
	id := uuid.NewString()
	wantError(t, "OpenUpload", second(s.OpenUpload(ctx, id)), storage.ErrUploadUnknown)
	w := s.writer(id, storage.UploadState{})
	partial, err := s.OpenUpload(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	defer partial.Close()
	var got string
	_, err = w.ReadFrom(&stepwise{left: []string{"abc", "def", "ghi"}, between: func() {
		more, err := io.ReadAll(partial)
		if err != nil {
			t.Error(err)
		}
		got += string(more) + "|"
	}})
	if err != nil || got != "|abc|def|ghi|" {
		t.Errorf("read %q between the pieces, %v", got, err)
	}
	d := digest.FromString("abcdefghi")
	if err := w.Verify(d, nil); err != nil {
		t.Error(err)
	}
	wantError(t, "Verify", w.Verify(digest.FromString("abc"), nil), storage.ErrDigestInvalid)
	s.commit(w, d)
	if _, err := partial.Seek(3, io.SeekStart); err != nil {
		t.Error(err)
	}
	if more, err := io.ReadAll(partial); err != nil || string(more) != "defghi" {
		t.Errorf("read %q, %v, after Commit", more, err)
	}
	wantError(t, "OpenUpload", second(s.OpenUpload(ctx, id)), storage.ErrUploadUnknown)
	s.wantBytes(d, "abcdefghi")
}
