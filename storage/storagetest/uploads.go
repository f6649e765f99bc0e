package storagetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

var uploadTests = []registryTest{
	{"chunks become a blob", testChunks},
	{"one request finishes what it begins", testMonolithic},
	{"an upload is known in its own repository only", testUploadRepository},
	{"a chunk elsewhere than at the end is refused and changes nothing", testWrongOffset},
	{"a chunk larger than it said ends the upload", testTooLarge},
	{"another digest ends the upload", testFinishMismatch},
	{"an upload begun for sha256 ends by sha512", testFinishOtherAlgorithm},
	{"what arrived of a broken chunk is kept, and the upload goes on", testBrokenChunk},
	{"a cancelled request's chunk is kept", testCancelledRequest},
	{"an upload goes on after a restart", testRestart},
	{"an upload goes on after a crash", testCrash},
	{"bytes that no fact mentions are discarded at the start", testOrphans},
	{"a request takes over from one that hangs", testTakeOver},
	{"cancelling ends an upload that hangs", testCancelHanging},
	{"a cancelled upload is gone", testCancelUpload},
	{"uploads to which nothing is added expire", testExpire},
	{"an upload to which something was just added does not expire", testExpireBusy},
}

func testChunks(t *testing.T, r *registry) {
	ctx := context.Background()
	id := r.begin("a")
	var content string
	for i, piece := range []string{"one", "", "two", strings.Repeat("three", 100_000)} {
		c := storage.Chunk{Body: newBody(piece), Start: int64(len(content)), Size: int64(len(piece))}
		content += piece
		if size, err := r.AppendUpload(ctx, "a", id, c); err != nil || size != int64(len(content)) {
			t.Fatalf("AppendUpload %d = %d, %v, want %d", i, size, err, len(content))
		}
		if size, err := r.UploadSize(ctx, "a", id); err != nil || size != int64(len(content)) {
			t.Errorf("UploadSize = %d, %v, want %d", size, err, len(content))
		}
	}
	last := storage.Chunk{Body: newBody("last"), Start: int64(len(content)), Size: 4}
	content += "last"
	if size, err := r.FinishUpload(ctx, "a", id, last, digest.FromString(content)); err != nil || size != int64(len(content)) {
		t.Fatalf("FinishUpload = %d, %v, want %d", size, err, len(content))
	}
	r.wantBlob("a", digest.FromString(content))
	r.wantNoUpload("a", id)
	r.restart()
	r.wantBlob("a", digest.FromString(content))
	r.wantNoUpload("a", id)
}

func testMonolithic(t *testing.T, r *registry) {
	for _, content := range []string{"", "abc"} {
		id := r.begin("a")
		if _, err := r.FinishUpload(context.Background(), "a", id, chunk(content), digest.FromString(content)); err != nil {
			t.Fatalf("FinishUpload: %v", err)
		}
		r.wantBlob("a", digest.FromString(content))
		r.wantNoUpload("a", id)
	}
}

func testUploadRepository(t *testing.T, r *registry) {
	ctx := context.Background()
	id := r.begin("a")
	r.add("a", id, "abc")
	for _, x := range []struct{ repository, id string }{{"b", id}, {"a", uuid.NewString()}} {
		wantError(t, "UploadSize", second(r.UploadSize(ctx, x.repository, x.id)), storage.ErrUploadUnknown)
		wantError(t, "AppendUpload", second(r.AppendUpload(ctx, x.repository, x.id, chunk("x"))), storage.ErrUploadUnknown)
		wantError(t, "FinishUpload", second(r.FinishUpload(ctx, x.repository, x.id, chunk(""), digest.FromString("abc"))), storage.ErrUploadUnknown)
		wantError(t, "CancelUpload", r.CancelUpload(ctx, x.repository, x.id), storage.ErrUploadUnknown)
	}
	r.finish("a", id, "abc")
	r.wantNoBlob("b", digest.FromString("abc"))
}

func testWrongOffset(t *testing.T, r *registry) {
	ctx := context.Background()
	id := r.begin("a")
	r.add("a", id, "abc")
	for _, start := range []int64{0, 2, 4, 1 << 40} {
		c := storage.Chunk{Body: newBody("xyz"), Start: start, Size: 3}
		size, err := r.AppendUpload(ctx, "a", id, c)
		wantError(t, "AppendUpload", err, storage.ErrRangeInvalid)
		if size != 3 {
			t.Errorf("AppendUpload says %d bytes, want 3", size)
		}
		size, err = r.FinishUpload(ctx, "a", id, c, digest.FromString("abcxyz"))
		wantError(t, "FinishUpload", err, storage.ErrRangeInvalid)
		if size != 3 {
			t.Errorf("FinishUpload says %d bytes, want 3", size)
		}
	}
	r.wantNoBlob("a", digest.FromString("abcxyz"))
	r.finish("a", id, "abc")
}

func testTooLarge(t *testing.T, r *registry) {
	ctx := context.Background()
	for name, send := range map[string]func(id string) error{
		"AppendUpload": func(id string) error {
			return second(r.AppendUpload(ctx, "a", id, storage.Chunk{Body: newBody("defg"), Start: 3, Size: 3}))
		},
		"FinishUpload": func(id string) error {
			return second(r.FinishUpload(ctx, "a", id, storage.Chunk{Body: newBody("defg"), Start: 3, Size: 3}, digest.FromString("abcdef")))
		},
		"AppendUpload of nothing": func(id string) error {
			return second(r.AppendUpload(ctx, "a", id, storage.Chunk{Body: newBody("d"), Start: 3, Size: 0}))
		},
	} {
		id := r.begin("a")
		r.add("a", id, "abc")
		wantError(t, name, send(id), storage.ErrSizeInvalid)
		r.wantNoUpload("a", id)
	}
	r.wantNothing()
}

func testFinishMismatch(t *testing.T, r *registry) {
	ctx := context.Background()
	for _, wrong := range []digest.Digest{digest.SHA256.FromString("abd"), digest.SHA512.FromString("abd")} {
		id := r.begin("a")
		r.add("a", id, "abc")
		_, err := r.FinishUpload(ctx, "a", id, chunk(""), wrong)
		wantError(t, "FinishUpload", err, storage.ErrDigestInvalid)
		r.wantNoUpload("a", id)
		r.wantNoBlob("a", wrong)
		r.wantNoBlob("a", digest.FromString("abc"))
	}
	r.wantNothing()
}

func testFinishOtherAlgorithm(t *testing.T, r *registry) {
	id := r.begin("a")
	r.add("a", id, "abc")
	d := digest.SHA512.FromString("abcdef")
	if _, err := r.FinishUpload(context.Background(), "a", id, chunk("def"), d); err != nil {
		t.Fatalf("FinishUpload: %v", err)
	}
	r.wantBlob("a", d)
	r.wantNoBlob("a", digest.FromString("abcdef"))
}

func testBrokenChunk(t *testing.T, r *registry) {
	ctx := context.Background()
	for _, finish := range []bool{false, true} {
		id := r.begin("a")
		r.add("a", id, "abc")
		broken := newBody("def")
		broken.err = fmt.Errorf("connection reset by peer")
		c := storage.Chunk{Body: broken, Start: 3, Size: 100}
		var size int64
		var err error
		if finish {
			size, err = r.FinishUpload(ctx, "a", id, c, digest.FromString("abcdefghi"))
		} else {
			size, err = r.AppendUpload(ctx, "a", id, c)
		}
		wantError(t, "a broken chunk", err, storage.ErrUploadInvalid)
		wantError(t, "a broken chunk", err, broken.err)
		if size != 6 {
			t.Errorf("a broken chunk left %d bytes, want 6", size)
		}
		if size, err := r.UploadSize(ctx, "a", id); err != nil || size != 6 {
			t.Errorf("UploadSize = %d, %v, want 6", size, err)
		}
		r.add("a", id, "ghi")
		r.finish("a", id, "abcdefghi")
		r.wantBlob("a", digest.FromString("abcdefghi"))
	}
}

// cancelling is a request's content whose client leaves after its last byte.
type cancelling struct {
	*body
	cancel context.CancelFunc
}

func (c cancelling) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	if err != nil {
		c.cancel()
	}
	return n, err
}

func testCancelledRequest(t *testing.T, r *registry) {
	for _, broken := range []error{context.Canceled, nil} {
		ctx, cancel := context.WithCancel(context.Background())
		b := newBody("def")
		if broken != nil {
			b.err = broken
		}
		id := r.begin("a")
		r.add("a", id, "abc")
		_, err := r.AppendUpload(ctx, "a", id, storage.Chunk{Body: cancelling{b, cancel}, Start: 3, Size: -1})
		if (err == nil) != (broken == nil) {
			t.Errorf("AppendUpload: %v", err)
		}
		if size, err := r.UploadSize(context.Background(), "a", id); err != nil || size != 6 {
			t.Errorf("UploadSize = %d, %v, want 6", size, err)
		}
		r.finish("a", id, "abcdef")
	}
}

func testRestart(t *testing.T, r *registry) {
	id := r.begin("a")
	var content string
	for i := range 4 {
		r.restart()
		if size, err := r.UploadSize(context.Background(), "a", id); err != nil || size != int64(len(content)) {
			t.Fatalf("UploadSize = %d, %v, want %d", size, err, len(content))
		}
		piece := strings.Repeat(distinct(i), 1000)
		r.add("a", id, piece)
		content += piece
	}
	r.restart()
	r.finish("a", id, content)
	r.wantBlob("a", digest.FromString(content))
}

// testCrash goes on with an upload in a registry that knows nothing of what the first
// one has in memory, while a request to the first one still hangs.
func testCrash(t *testing.T, r *registry) {
	ctx := context.Background()
	id := r.begin("a")
	r.add("a", id, "abc")
	hanging := newBody("def")
	hanging.hangs = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		// What it returns is of no interest: nobody waits for it after a crash.
		_, _ = r.AppendUpload(ctx, "a", id, storage.Chunk{Body: hanging, Start: 3, Size: -1})
	}()
	<-hanging.waiting

	second := storage.New(r.blobs, r.database)
	size, err := second.UploadSize(ctx, "a", id)
	if err != nil || size < 3 || size > 6 {
		t.Fatalf("UploadSize = %d, %v, want 3 to 6", size, err)
	}
	c := storage.Chunk{Body: newBody("abcdefghi"[size:]), Start: size, Size: 9 - size}
	if _, err := second.FinishUpload(ctx, "a", id, c, digest.FromString("abcdefghi")); err != nil {
		t.Errorf("FinishUpload: %v", err)
	}
	if err := checkBlob(second, "a", digest.FromString("abcdefghi")); err != nil {
		t.Error(err)
	}
	hanging.Interrupt()
	<-done
	if err := checkBlob(second, "a", digest.FromString("abcdefghi")); err != nil {
		t.Error(err)
	}
}

func testOrphans(t *testing.T, r *registry) {
	ctx := context.Background()
	id := r.begin("a")
	r.add("a", id, "abc")
	orphan := uuid.NewString()
	w, err := r.blobs.Writer(ctx, orphan, storage.UploadState{Algorithm: digest.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ReadFrom(strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Suspend(); err != nil {
		t.Fatal(err)
	}
	d := r.push("a", "a blob")
	r.restart()
	r.wantNoUpload("a", orphan)
	r.wantBlob("a", d)
	r.finish("a", id, "abc")
}

func testTakeOver(t *testing.T, r *registry) {
	ctx := context.Background()
	for name, next := range map[string]func(id string) error{
		"UploadSize": func(id string) error { return second(r.UploadSize(ctx, "a", id)) },
		"AppendUpload": func(id string) error {
			return second(r.AppendUpload(ctx, "a", id, storage.Chunk{Body: newBody(""), Start: 6, Size: 0}))
		},
	} {
		id := r.begin("a")
		hanging := newBody("abcdef")
		hanging.hangs = true
		old := make(chan error)
		go func() {
			_, err := r.AppendUpload(ctx, "a", id, storage.Chunk{Body: hanging, Start: 0, Size: -1})
			old <- err
		}()
		<-hanging.waiting
		if err := next(id); err != nil {
			t.Errorf("%s beside a request that hangs: %v", name, err)
			hanging.Interrupt()
		}
		wantError(t, "the request that hung", <-old, errInterrupted)
		r.add("a", id, "ghi")
		r.finish("a", id, "abcdefghi")
		r.wantBlob("a", digest.FromString("abcdefghi"))
	}
	// A request that gives up waiting says so, and the one that it waited for goes on.
	id := r.begin("a")
	stuck := &stubborn{body: newBody("abc"), read: make(chan struct{}), release: make(chan struct{})}
	old := make(chan error)
	go func() {
		_, err := r.AppendUpload(ctx, "a", id, storage.Chunk{Body: stuck, Start: -1, Size: -1})
		old <- err
	}()
	<-stuck.read
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	wantError(t, "UploadSize", second(r.UploadSize(cancelled, "a", id)), context.Canceled)
	close(stuck.release)
	if err := <-old; err != nil {
		t.Errorf("AppendUpload: %v", err)
	}
	r.finish("a", id, "abc")
}

// stubborn is a request's content that ignores Interrupt.
type stubborn struct {
	*body
	read, release chan struct{}
}

func (s *stubborn) Read(p []byte) (int, error) {
	s.wait.Do(func() { close(s.read) })
	<-s.release
	return s.body.Read(p)
}

func (s *stubborn) Interrupt() {}

func testCancelHanging(t *testing.T, r *registry) {
	ctx := context.Background()
	id := r.begin("a")
	hanging := newBody("abc")
	hanging.hangs = true
	old := make(chan error)
	go func() {
		_, err := r.FinishUpload(ctx, "a", id, storage.Chunk{Body: hanging, Start: 0, Size: -1}, digest.FromString("abc"))
		old <- err
	}()
	<-hanging.waiting
	if err := r.CancelUpload(ctx, "a", id); err != nil {
		t.Errorf("CancelUpload: %v", err)
		hanging.Interrupt()
	}
	wantError(t, "the request that hung", <-old, errInterrupted)
	r.wantNoUpload("a", id)
	r.wantNothing()
}

func testCancelUpload(t *testing.T, r *registry) {
	ctx := context.Background()
	empty, full := r.begin("a"), r.begin("a")
	r.add("a", full, "abc")
	for _, id := range []string{empty, full} {
		if err := r.CancelUpload(ctx, "a", id); err != nil {
			t.Errorf("CancelUpload: %v", err)
		}
		r.wantNoUpload("a", id)
		wantError(t, "CancelUpload again", r.CancelUpload(ctx, "a", id), storage.ErrUploadUnknown)
		_, err := r.FinishUpload(ctx, "a", id, chunk("abc"), digest.FromString("abc"))
		wantError(t, "FinishUpload", err, storage.ErrUploadUnknown)
	}
	r.wantNothing()
}

func testExpire(t *testing.T, r *registry) {
	ctx := context.Background()
	empty, full := r.begin("a"), r.begin("b")
	r.add("b", full, "abc")
	d := r.push("a", "a blob")
	if err := r.ExpireUploads(ctx, time.Now().Add(-time.Hour)); err != nil {
		t.Fatalf("ExpireUploads: %v", err)
	}
	r.wantStats(storage.Stats{Blobs: 1, BlobBytes: 6, Uploads: 2})
	if err := r.ExpireUploads(ctx, time.Now().Add(time.Hour)); err != nil {
		t.Fatalf("ExpireUploads: %v", err)
	}
	r.wantNoUpload("a", empty)
	r.wantNoUpload("b", full)
	r.wantStats(storage.Stats{Blobs: 1, BlobBytes: 6})
	r.wantBlob("a", d)
}

func testExpireBusy(t *testing.T, r *registry) {
	ctx := context.Background()
	id := r.begin("a")
	hanging := newBody("abc")
	hanging.hangs = true
	done := make(chan error)
	go func() {
		_, err := r.AppendUpload(ctx, "a", id, storage.Chunk{Body: hanging, Start: 0, Size: -1})
		done <- err
	}()
	<-hanging.waiting
	if err := r.ExpireUploads(ctx, time.Now().Add(time.Hour)); err != nil {
		t.Fatalf("ExpireUploads: %v", err)
	}
	hanging.Interrupt()
	wantError(t, "AppendUpload", <-done, errInterrupted)
	if size, err := r.UploadSize(ctx, "a", id); err != nil || size != 3 {
		t.Errorf("UploadSize = %d, %v, want 3", size, err)
	}
	r.finish("a", id, "abc")
}
