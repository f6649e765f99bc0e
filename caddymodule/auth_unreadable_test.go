package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// secretPolicy lets nobody but its owners near secret/….
const secretPolicy = "policy secret/** {\ngroup owners read create update delete\n}\npolicy ** {\nanonymous read\nauthenticated read create\n}\n"

// strangers are those who may not read secret/….
func strangers(g *guarded) map[string]http.Header {
	key := g.key("ci")
	return map[string]http.Header{
		"anonymous":              nil,
		"anonymous with a token": bearer(g.token(nil, "repository:secret/full:pull,push", "repository:secret/none:pull,push")),
		"a key":                  basic("ci", key),
		"a token":                bearer(g.token(basic("ci", key), "repository:secret/full:pull,push", "repository:secret/none:pull,push")),
		"a session":              g.signIn("idp"),
	}
}

func runWithSecrets(t *testing.T) *guarded {
	t.Helper()
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	return runGuarded(t, provider("idp", idp)+secretPolicy)
}

// passing are what differs between two answers anyway.
var passing = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// told returns all of an answer but what it is about and when it came.
func told(a answer, name string) string {
	header := a.header.Clone()
	header.Del("Date")
	text := fmt.Sprint(a.status, header, a.body)
	return passing.ReplaceAllString(strings.ReplaceAll(text, name, "NAME"), "UUID")
}

// TestWhatMayNotBeReadIsNotToldFromWhatIsNotThere asks for everything in a repository that
// is there and in one that is not.
func TestWhatMayNotBeReadIsNotToldFromWhatIsNotThere(t *testing.T) {
	g := runWithSecrets(t)
	manifest := g.open.putIndex("secret/full", "v1", "1")
	blob := g.open.putBlob("secret/full", "a secret")
	upload := g.open.startUpload("secret/full")
	upload = upload[strings.LastIndexByte(upload, '/')+1:]
	paths := []string{
		"tags/list", "tags/list?n=1", "manifests/v1", "manifests/none", "manifests/" + manifest.String(), "manifests/" + digest.FromString("none").String(),
		"blobs/" + blob.String(), "blobs/" + digest.FromString("none").String(), "blobs/uploads/", "blobs/uploads/" + upload, "blobs/uploads/none",
		"blobs/uploads/?mount=" + blob.String(), "blobs/uploads/?digest=" + blob.String(), "referrers/" + manifest.String(), "referrers/" + blob.String(),
		"manifests/not:adigest", "blobs/no-digest", "manifests/v1?ns=" + g.host, "manifests/v1?tag=v2", "nothing/v1",
	}
	for who, header := range strangers(g) {
		for _, path := range paths {
			for _, method := range corpusMethods {
				full := g.send(header, method, "/v2/secret/full/"+path, []byte(emptyIndex)...)
				none := g.send(header, method, "/v2/secret/none/"+path, []byte(emptyIndex)...)
				if full, none := told(full, "secret/full"), told(none, "secret/none"); full != none {
					t.Errorf("%s: %s %s\nis there:     %s\nis not there: %s", who, method, path, full, none)
				}
				if full.status < 400 {
					t.Errorf("%s: %s %s: %d %s", who, method, path, full.status, full.body)
				}
			}
		}
	}
}

// TestWhatMayNotBeReadIsMountedFromNowhere has somebody who knows a secret's digest.
func TestWhatMayNotBeReadIsMountedFromNowhere(t *testing.T) {
	g := runWithSecrets(t)
	secret := g.open.putBlob("secret/full", "a secret")
	public := g.open.putBlob("team/lib", "no secret")
	start := "/v2/team/app/blobs/uploads/?" + url.Values{"mount": {secret.String()}}.Encode()
	var answers []string
	for who, header := range strangers(g) {
		if strings.HasPrefix(who, "anonymous") {
			continue // they push nowhere
		}
		if who == "a token" {
			header = bearer(g.token(basic("ci", g.key("ci")), "repository:team/app:pull,push", "repository:secret/full:pull"))
		}
		for _, from := range []string{"", "&from=secret/full", "&from=secret/none", "&from=team/lib", "&from=Secret/Full", "&from=secret%2Ffull"} {
			a := g.send(header, http.MethodPost, start+from)
			if a.status != http.StatusAccepted {
				t.Errorf("%s, %q: %d %s", who, from, a.status, a.body)
			}
			answers = append(answers, told(a, "?"))
		}
		if a := g.send(header, http.MethodHead, "/v2/team/app/blobs/"+secret.String()); a.status != http.StatusNotFound {
			t.Errorf("%s: the secret is in team/app: %d", who, a.status)
		}
		if a := g.send(header, http.MethodPost, "/v2/team/app/blobs/uploads/?mount="+public.String()+"&from=team/lib"); a.status != http.StatusCreated {
			t.Errorf("%s: what may be read: %d %s", who, a.status, a.body)
		}
	}
	if slices.Sort(answers); len(slices.Compact(answers)) != 1 {
		t.Errorf("it is told what is there: %q", slices.Compact(answers))
	}
	// Who knows the content does not learn that it is there.
	whole := func(content string) string {
		d := digest.FromString(content)
		a := g.send(strangers(g)["a key"], http.MethodPost, "/v2/team/app/blobs/uploads/?digest="+d.String(), []byte(content)...)
		return strings.ReplaceAll(told(a, "?"), d.String(), "DIGEST")
	}
	if there, not := whole("a secret"), whole("a rumour"); there != not {
		t.Errorf("content that is there: %s; that is not: %s", there, not)
	}
}

// TestListsHaveOnlyWhatMayBeRead has thousands of repositories of which few may be read,
// at the ends and the edges of what is read at a time.
func TestListsHaveOnlyWhatMayBeRead(t *testing.T) {
	g := runGuarded(t, "policy r*/a {\nanonymous read\n}\npolicy ** {\ngroup owners read\nuser nobody create\n}\n")
	const all = 2500
	var readable, names []string
	for i := range all {
		name := fmt.Sprintf("r%04d/", i)
		if i%700 == 0 || i == all-1 || i == 999 || i == 1000 || i == 1001 {
			readable = append(readable, name+"a")
			names = append(names, name+"a")
		} else {
			names = append(names, name+"b")
		}
	}
	var group errgroup.Group
	group.SetLimit(16)
	for _, name := range names {
		group.Go(func() error {
			a, err := g.open.trySend(nil, http.MethodPut, "/v2/"+name+"/manifests/v1", []byte(emptyIndex))
			if err == nil && a.status != http.StatusCreated {
				err = fmt.Errorf("%s: %d %s", name, a.status, a.body)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for who, want := range map[string][]string{"": readable, "ci": readable, "owner": names} {
		var header http.Header
		switch who {
		case "ci":
			header = bearer(g.key("ci"))
		case "owner":
			header = bearer(g.key("owner", "--group", "owners"))
		}
		for _, n := range []int{0, 1, 3, 4, 1000, 5000} {
			if n == 1 && len(want) == all {
				continue // that many pages say no more than those of 1000
			}
			if got := catalog(t, g, header, n); !slices.Equal(got, want) {
				t.Errorf("%q, n=%d: %d names, want %d", who, n, len(got), len(want))
			}
		}
	}
	if a := g.send(bearer(g.key("nobody")), http.MethodGet, "/v2/_catalog?last=r0001/b&n=2"); strings.TrimSpace(a.body) != `{"repositories":["r0700/a","r0999/a"]}` {
		t.Errorf("after a name that may not be read: %d %s", a.status, a.body)
	}
}

// catalog returns all pages; n is how many names are asked for at a time, if any.
func catalog(t *testing.T, g *guarded, header http.Header, n int) []string {
	t.Helper()
	var all []string
	path := "/v2/_catalog"
	if n > 0 {
		path += fmt.Sprintf("?n=%d", n)
	}
	for path != "" {
		a := g.send(header, http.MethodGet, path)
		var page struct{ Repositories []string }
		if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.status != http.StatusOK || n > 0 && len(page.Repositories) > n {
			t.Fatalf("%s: %d, %v, %.200s", path, a.status, err, a.body)
		}
		all = append(all, page.Repositories...)
		link, ok := strings.CutSuffix(strings.TrimPrefix(a.header.Get("Link"), "<"), `>; rel="next"`)
		if path = ""; ok {
			path = link
		}
	}
	return all
}

func TestPagesShowNoRepositoryThatMayNotBeRead(t *testing.T) {
	g := runWithSecrets(t)
	g.open.putIndex("secret/full", "v1", "1")
	for who, header := range strangers(g) {
		for _, path := range []string{"/", "/login", "/user/apikey", "/repos", "/repo/secret/full", "/admin", "/auth/apikey", "/auth/token?scope=repository:secret/full:pull"} {
			if a := g.send(header, http.MethodGet, path); a.status == http.StatusOK && strings.Contains(a.body, "secret/full") {
				t.Errorf("%s, %s: %s", who, path, a.body)
			}
		}
	}
}

// TestAnUpstreamIsAskedForNobodyWhoMayNotRead has copies, and names that policies take for
// this registry's own.
func TestAnUpstreamIsAskedForNobodyWhoMayNotRead(t *testing.T) {
	hub := upstreamtest.Start(t)
	for _, name := range []string{"corp/app", "secret/full", "library/alpine"} {
		hub.AddImage(name, "v1", upstreamtest.Bytes(1, 100))
	}
	g := newGuarded(t)
	g.beside = "registry_cache {\ndefault docker.io\n" + cached("docker.io", hub) + "}"
	g.run("policy docker.io/corp/** {\ngroup owners read\n}\n" + secretPolicy)
	owner, ci := bearer(g.key("owner", "--group", "owners")), bearer(g.key("ci"))
	for name, header := range map[string]http.Header{"401 UNAUTHORIZED": nil, "403 DENIED": ci} {
		for _, path := range []string{
			"/v2/docker.io/corp/app/manifests/v1", "/v2/corp/app/manifests/v1", "/v2/corp/app/manifests/v1?ns=docker.io", "/v2/docker.io/corp/app/tags/list",
			"/v2/docker.io/corp/none/manifests/v1", "/v2/secret/full/manifests/v1", "/v2/secret/full/tags/list", "/v2/secret/none/manifests/v1",
		} {
			if a := g.send(header, http.MethodGet, path); a.refusal() != name {
				t.Errorf("%s: %d %s, want %s", path, a.status, a.body, name)
			}
		}
	}
	if a := g.send(owner, http.MethodGet, "/v2/secret/full/manifests/v1"); a.refusal() != "404 MANIFEST_UNKNOWN" && a.refusal() != "404 NAME_UNKNOWN" {
		t.Errorf("a private name: %d %s", a.status, a.body)
	}
	if n := len(hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(hub.Requests()))
	}
	for path, header := range map[string]http.Header{"/v2/docker.io/corp/app/manifests/v1": owner, "/v2/alpine/manifests/v1": nil} {
		if a := g.send(header, http.MethodGet, path); a.status != http.StatusOK || a.result() != "miss" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	// What is cached by now is no more public than before.
	if a := g.send(ci, http.MethodGet, "/v2/docker.io/corp/app/manifests/v1"); a.refusal() != "403 DENIED" || a.result() != "" {
		t.Errorf("a copy: %d %s, %q", a.status, a.body, a.result())
	}
	if a := g.send(ci, http.MethodGet, "/v2/_catalog"); strings.TrimSpace(a.body) != `{"repositories":["docker.io/library/alpine"]}` {
		t.Errorf("the catalog: %s", a.body)
	}
}
