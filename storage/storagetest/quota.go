package storagetest

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

var quotaTests = []registryTest{
	{"quotas count shared blobs once", testQuota},
	{"a quota is kept to by whoever comes first", testQuotaRace},
	{"quotas that are set while blobs come and go are right", testQuotaSetMeanwhile},
}

func testQuota(t *testing.T, r *registry) {
	ctx := context.Background()
	r.push("team/a", "before") // 6 bytes
	r.push("other", "not counted")
	quota := storage.Quota{Name: "team/**", Bytes: 20, Match: func(repository string) bool { return strings.HasPrefix(repository, "team/") }}
	if err := r.SetQuotas(ctx, []storage.Quota{quota}); err != nil {
		t.Fatal(err)
	}
	shared := r.push("team/a", "0123456789") // 16
	r.push("team/b", "0123456789")           // is there already
	if err := r.MountBlob(ctx, "team/c", "team/a", shared, nil); err != nil {
		t.Error(err)
	}
	over := digest.FromString("fives")
	wantError(t, "PushBlob", r.PushBlob(ctx, "team/b", strings.NewReader("fives"), over), storage.ErrQuota)
	r.wantNoBlob("team/b", over)
	r.wantFiles(digest.FromString("before"), digest.FromString("not counted"), shared)
	wantError(t, "MountBlob", r.MountBlob(ctx, "team/b", "other", digest.FromString("not counted"), nil), storage.ErrQuota)
	wantError(t, "CheckQuota", r.CheckQuota(ctx, "team/new", "", 5), storage.ErrQuota)
	if err := r.CheckQuota(ctx, "other", "", 1<<40); err != nil {
		t.Error(err)
	}
	id := r.begin("team/b")
	_, err := r.AppendUpload(ctx, "team/b", id, chunk("fives"))
	wantError(t, "AppendUpload", err, storage.ErrQuota)
	r.wantNoUpload("team/b", id)
	id = r.begin("team/b")
	untouched := newBody("five!")
	_, err = r.FinishUpload(ctx, "team/b", id, storage.Chunk{Body: untouched, Start: -1, Size: -1, Length: 5}, digest.FromString("five!"))
	wantError(t, "FinishUpload", err, storage.ErrQuota)
	if rest, err := io.ReadAll(untouched); err != nil || len(rest) != 5 {
		t.Errorf("only %d bytes of 5 were left untouched, %v", len(rest), err)
	}
	// What is there already takes no more.
	id = r.begin("team/b")
	if _, err := r.FinishUpload(ctx, "team/b", id, chunk("before"), digest.FromString("before")); err != nil {
		t.Error(err)
	}
	if err := r.CheckQuota(ctx, "team/new", shared, 10); err != nil {
		t.Error(err)
	}
	r.push("team/b", "four")
	// What is deleted counts no more at once, however long it can be restored.
	for _, repository := range []string{"team/a", "team/b"} {
		if err := r.DeleteBlob(ctx, repository, digest.FromString("before")); err != nil {
			t.Fatal(err)
		}
	}
	r.push("team/b", "fives")
	r.restart()
	if err := r.SetQuotas(ctx, []storage.Quota{quota}); err != nil {
		t.Fatal(err)
	}
	wantError(t, "PushBlob after a restart", r.PushBlob(ctx, "team/b", strings.NewReader("xx"), digest.FromString("xx")), storage.ErrQuota)
	// A quota that is not there for a while is counted anew.
	if err := r.SetQuotas(ctx, nil); err != nil {
		t.Fatal(err)
	}
	r.push("team/b", "much more than the quota")
	quota.Bytes = 44
	if err := r.SetQuotas(ctx, []storage.Quota{quota}); err != nil {
		t.Fatal(err)
	}
	r.push("team/b", "1")
	wantError(t, "PushBlob", r.PushBlob(ctx, "team/b", strings.NewReader("2"), digest.FromString("2")), storage.ErrQuota)
	r.collect(storage.CollectOptions{})
}

func testQuotaRace(t *testing.T, r *registry) {
	ctx := context.Background()
	if err := r.SetQuotas(ctx, []storage.Quota{{Name: "**", Bytes: 50, Match: func(string) bool { return true }}}); err != nil {
		t.Fatal(err)
	}
	var pushes []func() error
	for i := range 20 {
		content := fmt.Sprintf("ten bytes%d", i%10)
		pushes = append(pushes, func() error {
			return r.PushBlob(ctx, fmt.Sprint("r", i), strings.NewReader(content), digest.FromString(content))
		})
	}
	for _, err := range together(pushes...) {
		if err != nil {
			wantError(t, "PushBlob", err, storage.ErrQuota)
		}
	}
	stats, err := r.Stats(ctx)
	if err != nil || stats.BlobBytes != 50 {
		t.Errorf("%d bytes were taken, %v, want 50", stats.BlobBytes, err)
	}
	r.collect(storage.CollectOptions{})
}

// testQuotaSetMeanwhile has quotas be set, again and again, by two of what may be several
// servers.
func testQuotaSetMeanwhile(t *testing.T, r *registry) {
	ctx := context.Background()
	const room = 1 << 20
	quotas := []storage.Quota{{Name: "team/**", Bytes: room, Match: func(repository string) bool { return strings.HasPrefix(repository, "team/") }}}
	r.push("team/a", "before") // 6 bytes
	if err := r.SetQuotas(ctx, quotas); err != nil {
		t.Fatal(err)
	}
	var work []func() error
	for range 2 {
		work = append(work, func() error {
			for range 10 {
				if err := r.SetQuotas(ctx, quotas); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for i := range 3 {
		work = append(work, func() error {
			for n := range 20 {
				content := fmt.Sprintf("%d %02d six", i, n) // 8 bytes, of which every second goes
				d := digest.FromString(content)
				if err := r.PushBlob(ctx, "team/b", strings.NewReader(content), d); err != nil {
					return err
				}
				if n%2 > 0 {
					continue
				}
				if err := r.DeleteBlob(ctx, "team/b", d); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, err := range together(work...) {
		if err != nil {
			t.Error(err)
		}
	}
	const used = 6 + 3*10*8
	if err := r.CheckQuota(ctx, "team/c", "", room-used); err != nil {
		t.Errorf("there is no room for what there should be: %v", err)
	}
	wantError(t, "CheckQuota of one byte more", r.CheckQuota(ctx, "team/c", "", room-used+1), storage.ErrQuota)
}
