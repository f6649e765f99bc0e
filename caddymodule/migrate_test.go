package caddymodule_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestEverythingIsMoved while it is served: what is there stays so, nothing new is taken,
// and a server with the other configuration goes on.
func TestEverythingIsMoved(t *testing.T) {
	s, file := upkeepSite(t, "")
	s.putBlob("team/app", "a layer")
	want := s.putIndex("team/app", "v1", "1")
	port := freePort(t)
	moved := global(filepath.Join(t.TempDir(), "moved"), "database sqlite {env.MOVED_DATABASE}") + fmt.Sprintf("http://127.0.0.1:%d {\n\tregistry\n}\n", port)
	t.Setenv("MOVED_DATABASE", filepath.Join(t.TempDir(), "moved.db"))
	to := writeCaddyfile(t, moved)
	if out, err := command(t, "migrate", "--config", file); err == nil || !strings.Contains(err.Error(), "--to is needed") {
		t.Errorf("without --to: %s, %v", out, err)
	}
	if out, err := command(t, "migrate", "--from", file, "--to", file); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("to where it is: %s, %v", out, err)
	}
	time.Sleep(1100 * time.Millisecond) // whoever reads what no manifest names has that written down then
	if out := do(t, file, "migrate", "--to", to); !strings.Contains(out, "moved 1 blob (7 B) of 1") {
		t.Errorf("migrate: %s", out)
	}
	read := func(s site) {
		t.Helper()
		if a := s.send(nil, http.MethodGet, "/v2/team/app/manifests/v1"); a.status != http.StatusOK || a.header.Get("Docker-Content-Digest") != want.String() {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := s.send(nil, http.MethodGet, "/v2/team/app/blobs/"+digest.FromString("a layer").String()); a.body != "a layer" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	read(s)
	a, err := s.do(t.Context(), http.MethodPost, "/v2/team/app/blobs/uploads/?digest="+digest.FromString("x").String(), []byte("x"))
	if err != nil || a.refusal() != "503 UNAVAILABLE" || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "is being moved") {
		t.Errorf("a push is answered %v %+v", err, a)
	}
	if a := s.send(nil, http.MethodGet, "/readyz"); a.status != http.StatusOK || !strings.Contains(a.body, "is being moved") {
		t.Errorf("/readyz: %d %s", a.status, a.body)
	}
	run(t, moved)
	s = site{t: t, host: fmt.Sprintf("127.0.0.1:%d", port)}
	read(s)
	s.putBlob("team/other", "another layer")
	if out := do(t, to, "verify"); !strings.Contains(out, "0 damaged") {
		t.Errorf("verify: %s", out)
	}
}

// TestAMoveIsUndone by who decides to stay.
func TestAMoveIsUndone(t *testing.T) {
	s, file := upkeepSite(t, "")
	s.putIndex("team/app", "v1", "1")
	to := writeCaddyfile(t, global(filepath.Join(t.TempDir(), "moved"), ""))
	do(t, file, "migrate", "--to", to)
	push := func() string {
		t.Helper()
		a, err := s.do(t.Context(), http.MethodPost, "/v2/team/app/blobs/uploads/?digest="+digest.FromString("x").String(), []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(a.status)
	}
	if got := push(); got != "503" {
		t.Errorf("a push to what was moved is answered %s", got)
	}
	if _, err := command(t, "migrate", "--config", file, "--undo", "--to", to); err == nil || !strings.Contains(err.Error(), "--undo") {
		t.Errorf("both --undo and --to: %v", err)
	}
	if out := do(t, file, "migrate", "--undo"); out != "pushes are taken\n" {
		t.Errorf("migrate --undo: %q", out)
	}
	if got := push(); got != "201" {
		t.Errorf("after --undo a push is answered %s", got)
	}
}

// TestAMoveToTheSameDirectoryIsRefused which has the files of what is moved.
func TestAMoveToTheSameDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	from := writeCaddyfile(t, global(dir, ""))
	to := writeCaddyfile(t, fmt.Sprintf("{\n\tregistry {\n\t\tstorage s3 {\n\t\t\tbucket images\n\t\t\tspool %s\n\t\t}\n\t}\n}\n", dir))
	if out, err := command(t, "migrate", "--from", from, "--to", to); err == nil || !strings.Contains(err.Error(), "spool") {
		t.Errorf("%s, %v", out, err)
	}
}
