package caddymodule_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const createPolicy = "policy ** {\ngroup artifact-workloads read create\ngroup admins read create update delete\n}\n"

// TestOfManyFirstPushesOfATagOneIsTaken has keys that may only create, all at once.
func TestOfManyFirstPushesOfATagOneIsTaken(t *testing.T) {
	g := runGuarded(t, createPolicy)
	const pushes = 12
	var keys []http.Header
	for i := range 3 {
		keys = append(keys, bearer(g.key(fmt.Sprint("ci", i), "--group", "artifact-workloads")))
	}
	for round := range 5 {
		path := fmt.Sprintf("/v2/team/app/manifests/v%d", round)
		type result struct {
			answer
			digest digest.Digest
			err    error
		}
		start, results := make(chan struct{}), make(chan result)
		for i := range pushes {
			go func() {
				content := index(fmt.Sprint(round, " ", i))
				<-start
				a, err := g.trySend(keys[i%len(keys)], http.MethodPut, path, content)
				results <- result{a, digest.FromBytes(content), err}
			}()
		}
		close(start)
		var taken []digest.Digest
		for range pushes {
			switch r := <-results; {
			case r.err != nil:
				t.Error(r.err)
			case r.status == http.StatusCreated:
				taken = append(taken, r.digest)
			case r.refusal() != "403 DENIED" || !strings.Contains(r.message(), "update"):
				t.Errorf("%d %s", r.status, r.body)
			}
		}
		if len(taken) != 1 {
			t.Fatalf("%d pushes were taken: %v", len(taken), taken)
		}
		a := g.send(keys[0], http.MethodGet, path)
		if digest.FromString(a.body) != taken[0] {
			t.Errorf("%s is %s, but %s was taken", path, digest.FromString(a.body), taken[0])
		}
		if again := g.send(keys[1], http.MethodPut, path, []byte(a.body)...); again.status != http.StatusCreated {
			t.Errorf("the same again: %d %s", again.status, again.body)
		}
	}
	if pushed := g.log("registry.audit", "overwrite"); len(pushed) != 0 {
		t.Errorf("tags were moved: %v", pushed)
	}
}

// TestSeveralTagsArePushedTogetherOrNotAtAll has one of them there already.
func TestSeveralTagsArePushedTogetherOrNotAtAll(t *testing.T) {
	g := runGuarded(t, createPolicy)
	ci, admin := bearer(g.key("ci", "--group", "artifact-workloads")), bearer(g.key("root", "--group", "admins"))
	old := g.open.putIndex("team/app", "there", "old")
	content := index("new")
	path := "/v2/team/app/manifests/" + digest.FromBytes(content).String() + "?tag=a&tag=there&tag=b"
	if a := g.send(ci, http.MethodPut, path, content...); a.refusal() != "403 DENIED" || !strings.Contains(a.message(), "there") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := g.open.get("/v2/team/app/tags/list"); strings.TrimSpace(a.body) != `{"name":"team/app","tags":["there"]}` {
		t.Errorf("tags: %s", a.body)
	}
	if a := g.open.get("/v2/team/app/manifests/there"); digest.FromString(a.body) != old {
		t.Errorf("the tag: %s", a.body)
	}
	if a := g.open.get(strings.TrimSuffix(path, "?tag=a&tag=there&tag=b")); a.status != http.StatusNotFound {
		t.Errorf("the manifest: %d", a.status)
	}
	if a := g.send(admin, http.MethodPut, path, content...); a.status != http.StatusCreated {
		t.Errorf("an admin: %d %s", a.status, a.body)
	}
	lines := g.log("registry.audit", "overwrite")
	if len(lines) != 1 || lines[0]["tag"] != "there" || lines[0]["previous"] != old.String() || lines[0]["user"] != "root" {
		t.Errorf("audited: %v", lines)
	}
}

// TestAKeyThatOnlyCreatesDeletesNothing tries all that can be deleted, and gives up an
// upload of its own.
func TestAKeyThatOnlyCreatesDeletesNothing(t *testing.T) {
	g := runGuarded(t, createPolicy)
	ci := bearer(g.key("ci", "--group", "artifact-workloads"))
	manifest, blob := g.open.putIndex("team/app", "v1", "1"), g.open.putBlob("team/app", "content")
	for _, path := range []string{"manifests/v1", "manifests/" + manifest.String(), "blobs/" + blob.String()} {
		if a := g.send(ci, http.MethodDelete, "/v2/team/app/"+path); a.refusal() != "403 DENIED" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		if a := g.send(ci, http.MethodGet, "/v2/team/app/"+path); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	upload := g.send(ci, http.MethodPost, "/v2/team/app/blobs/uploads/").header.Get("Location")
	if a := g.send(ci, http.MethodDelete, upload); a.status != http.StatusNoContent {
		t.Errorf("an upload: %d %s", a.status, a.body)
	}
}

// shortToken returns a token that expires within three or four seconds, and when.
func (g *guarded) shortToken(k signingKey, key string) (string, time.Time) {
	g.t.Helper()
	ends := time.Now().Add(4 * time.Second).Truncate(time.Second)
	token := g.token(bearer(key), "repository:team/app:pull,push")
	return k.changed(token, claims{"exp": ends.Unix()}), ends
}

// TestAPushGoesOnWithAnotherTokenWhenItsOwnExpires between two chunks.
func TestAPushGoesOnWithAnotherTokenWhenItsOwnExpires(t *testing.T) {
	g := runGuarded(t, createPolicy)
	key := g.key("ci", "--group", "artifact-workloads")
	signs := g.signingKey()
	short, _ := g.shortToken(signs, key)
	upload := g.send(bearer(short), http.MethodPost, "/v2/team/app/blobs/uploads/").header.Get("Location")
	chunk := func(token string, from int, content string) answer {
		header := with(bearer(token), "Content-Range", fmt.Sprintf("%d-%d", from, from+len(content)-1))
		return g.send(header, http.MethodPatch, upload, []byte(content)...)
	}
	if a := chunk(short, 0, "first "); a.status != http.StatusAccepted {
		t.Fatalf("the first chunk: %d %s", a.status, a.body)
	}
	await(t, "the token expires", func() bool { return g.send(bearer(short), http.MethodGet, "/v2/").status == http.StatusUnauthorized })
	refused := chunk(short, 6, "second")
	if refused.refusal() != "401 UNAUTHORIZED" || !strings.Contains(refused.message(), "expired") {
		t.Errorf("with the expired token: %d %s", refused.status, refused.body)
	}
	if realm := challenged(t, refused)["realm"]; realm != g.url()+"/auth/token" {
		t.Errorf("realm %q", realm)
	}
	fresh := g.token(bearer(key), "repository:team/app:pull,push")
	if a := g.send(bearer(fresh), http.MethodGet, upload); a.header.Get("Range") != "0-5" {
		t.Errorf("Range %q after the refusal", a.header.Get("Range"))
	}
	if a := chunk(fresh, 6, "second"); a.status != http.StatusAccepted {
		t.Errorf("with a fresh one: %d %s", a.status, a.body)
	}
	d := digest.FromString("first second")
	if a := g.send(bearer(fresh), http.MethodPut, upload+"?digest="+d.String()); a.status != http.StatusCreated {
		t.Errorf("the end: %d %s", a.status, a.body)
	}
}

// TestAChunkUnderWayOutlivesItsToken has one that is still sent when it expires.
func TestAChunkUnderWayOutlivesItsToken(t *testing.T) {
	g := runGuarded(t, createPolicy)
	key := g.key("ci", "--group", "artifact-workloads")
	signs := g.signingKey()
	upload := g.send(bearer(key), http.MethodPost, "/v2/team/app/blobs/uploads/").header.Get("Location")
	body, rest := io.Pipe()
	short, _ := g.shortToken(signs, key)
	req, err := http.NewRequest(http.MethodPatch, g.url()+upload, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = bearer(short)
	type result struct {
		status int
		err    error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := direct.Do(req)
		if err != nil {
			done <- result{err: err}
			return
		}
		done <- result{status: resp.StatusCode, err: errors.Join(resp.Body.Close())}
	}()
	first := bytes.Repeat([]byte("1"), 1<<20) // more than all buffers on the way
	if _, err := rest.Write(first); err != nil {
		t.Fatal(err)
	}
	await(t, "the token expires", func() bool { return g.send(bearer(short), http.MethodGet, "/v2/").status == http.StatusUnauthorized })
	if _, err := rest.Write([]byte("2")); err != nil {
		t.Fatal(err)
	}
	if err := rest.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || r.status != http.StatusAccepted {
		t.Errorf("%d, %v", r.status, r.err)
	}
	if a := g.send(bearer(key), http.MethodGet, upload); a.header.Get("Range") != fmt.Sprintf("0-%d", len(first)) {
		t.Errorf("Range %q", a.header.Get("Range"))
	}
}
