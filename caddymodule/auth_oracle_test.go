package caddymodule_test

import (
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/authz"
)

// need is what somebody must be allowed for a request to be done.
type need struct {
	actions authz.Action
	// tag is the one that must be allowed; AnyTag: some; empty: all.
	tag string
	// scope is what a token for it is for.
	scope string
}

// expectation is what the corpus expects of a kind of request, by the table of the
// contract. It is written without a look at how the registry finds out.
type expectation struct {
	// needs must all be allowed, in this order. None: nobody is asked.
	needs []need
	// status is what those get who may: 0 for any that is no refusal.
	status int
}

const (
	scopePull   = "pull"
	scopePush   = "pull,push"
	scopeDelete = "delete"
)

// subject is what a request of the corpus is about, and nothing else is.
type subject struct {
	repository string
	tag        string        // a tag, there unless it is said otherwise
	content    []byte        // of the manifest
	manifest   digest.Digest // of content
	other      []byte        // another manifest
	blob       digest.Digest // that is there
	fresh      string        // content of a blob that is not there
	from       string        // another repository
	mounted    digest.Digest // a blob of that
	upload     string        // path of an upload
}

// kind is a kind of path, with what its methods need.
type kind struct {
	name string
	path func(s subject) string
	// body is that of PUT, PATCH and POST.
	body    func(s subject) []byte
	methods map[string]func(s subject) expectation
	// unchanged reports whether nothing was done.
	unchanged func(open site, s subject) bool
	prepare   func(open site, s *subject)
	// other is the status of all other methods.
	other int
}

func reading(status int) map[string]func(subject) expectation {
	read := func(subject) expectation {
		return expectation{[]need{{authz.Read, authz.AnyTag, scopePull}}, status}
	}
	return map[string]func(subject) expectation{http.MethodGet: read, http.MethodHead: read}
}

// also returns methods with more of them.
func also(methods map[string]func(subject) expectation, method string, what func(subject) expectation) map[string]func(subject) expectation {
	methods[method] = what
	return methods
}

// pushing needs to create or update, and then that of the two which the tag asks for.
func pushing(action authz.Action) func(subject) expectation {
	return func(s subject) expectation {
		e := expectation{needs: []need{{authz.Create | authz.Update, s.tag, scopePush}}, status: http.StatusCreated}
		if action != 0 {
			e.needs = append(e.needs, need{action, s.tag, scopePush})
		}
		return e
	}
}

func uploading(status int) func(subject) expectation {
	return func(subject) expectation {
		return expectation{[]need{{authz.Create | authz.Update, authz.AnyTag, scopePush}}, status}
	}
}

func deleting(status int, ofTag bool) func(subject) expectation {
	return func(s subject) expectation {
		n := need{authz.Delete, "", scopeDelete}
		if ofTag {
			n.tag = s.tag
		}
		return expectation{[]need{n}, status}
	}
}

func fixed(path string) func(subject) string { return func(subject) string { return path } }

func under(rest func(s subject) string) func(subject) string {
	return func(s subject) string { return "/v2/" + s.repository + rest(s) }
}

func has(open site, path string, status int) bool {
	return open.send(nil, http.MethodHead, path).status == status
}

func manifestPath(s subject) string { return "/v2/" + s.repository + "/manifests/" + s.tag }

// kinds are all kinds of paths.
func kinds() []kind {
	prepareTag := func(open site, s *subject) { s.manifest = open.putIndex(s.repository, s.tag, s.tag) }
	tagStays := func(open site, s subject) bool {
		return open.send(nil, http.MethodGet, manifestPath(s)).body == string(s.content)
	}
	blobPath := func(d func(s subject) digest.Digest) func(subject) string {
		return under(func(s subject) string { return "/blobs/" + d(s).String() })
	}
	all := []kind{
		{name: "a tag", path: manifestPath, prepare: prepareTag, unchanged: tagStays,
			body:    func(s subject) []byte { return s.other },
			methods: also(also(reading(http.StatusOK), http.MethodPut, pushing(authz.Update)), http.MethodDelete, deleting(http.StatusAccepted, true))},
		{name: "a tag, pushed again", path: manifestPath, prepare: prepareTag, unchanged: tagStays,
			body:    func(s subject) []byte { return s.content },
			methods: also(reading(http.StatusOK), http.MethodPut, pushing(0)), other: -1},
		{name: "a new tag", path: manifestPath, unchanged: func(open site, s subject) bool { return has(open, manifestPath(s), http.StatusNotFound) },
			body:    func(s subject) []byte { return s.other },
			methods: also(also(reading(http.StatusNotFound), http.MethodPut, pushing(authz.Create)), http.MethodDelete, deleting(http.StatusNotFound, true))},
		{name: "a manifest", path: under(func(s subject) string { return "/manifests/" + s.manifest.String() }), prepare: prepareTag, unchanged: tagStays,
			body:    func(s subject) []byte { return s.content },
			methods: also(also(reading(http.StatusOK), http.MethodPut, uploading(http.StatusCreated)), http.MethodDelete, deleting(http.StatusAccepted, false))},
		{name: "a blob", path: blobPath(func(s subject) digest.Digest { return s.blob }),
			prepare: func(open site, s *subject) { s.blob = open.putBlob(s.repository, "blob "+s.tag) },
			unchanged: func(open site, s subject) bool {
				return has(open, "/v2/"+s.repository+"/blobs/"+s.blob.String(), http.StatusOK)
			},
			methods: also(reading(http.StatusOK), http.MethodDelete, deleting(http.StatusAccepted, false))},
		{name: "the start of an upload", path: under(func(subject) string { return "/blobs/uploads/" }),
			methods: map[string]func(subject) expectation{http.MethodPost: uploading(http.StatusAccepted)}},
		{name: "a blob in one request", path: under(func(s subject) string { return "/blobs/uploads/?digest=" + digest.FromString(s.fresh).String() }),
			body: func(s subject) []byte { return []byte(s.fresh) },
			unchanged: func(open site, s subject) bool {
				return has(open, "/v2/"+s.repository+"/blobs/"+digest.FromString(s.fresh).String(), http.StatusNotFound)
			},
			methods: map[string]func(subject) expectation{http.MethodPost: uploading(http.StatusCreated)}},
		{name: "a mount", path: under(func(s subject) string { return "/blobs/uploads/?mount=" + s.mounted.String() + "&from=" + s.from }),
			prepare: func(open site, s *subject) { s.mounted = open.putBlob(s.from, "mounted "+s.tag) },
			unchanged: func(open site, s subject) bool {
				return has(open, "/v2/"+s.repository+"/blobs/"+s.mounted.String(), http.StatusNotFound)
			},
			methods: map[string]func(subject) expectation{http.MethodPost: uploading(0)}},
		{name: "an upload", path: func(s subject) string { return s.upload + "?digest=" + digest.FromString(s.fresh).String() },
			prepare: func(open site, s *subject) { s.upload = open.startUpload(s.repository) },
			body:    func(s subject) []byte { return []byte(s.fresh) },
			unchanged: func(open site, s subject) bool {
				a := open.send(nil, http.MethodGet, s.upload)
				return a.status == http.StatusNoContent && a.header.Get("Range") == "0-0"
			},
			methods: map[string]func(subject) expectation{
				http.MethodGet: uploading(http.StatusNoContent), http.MethodHead: uploading(http.StatusNoContent), http.MethodPatch: uploading(http.StatusAccepted),
				http.MethodPut: uploading(http.StatusCreated), http.MethodDelete: uploading(http.StatusNoContent),
			}},
		{name: "referrers", path: under(func(s subject) string { return "/referrers/" + s.blob.String() }), methods: reading(http.StatusOK),
			prepare: func(_ site, s *subject) { s.blob = digest.FromString(s.tag) }},
		{name: "tags", path: under(func(subject) string { return "/tags/list" }), methods: reading(http.StatusOK), prepare: prepareTag},
		{name: "no endpoint", path: under(func(subject) string { return "/images/v1" }), other: http.StatusNotFound},
		{name: "no endpoint of any repository", path: fixed("/v2/_images"), other: http.StatusNotFound},
		{name: "no name", path: fixed("/v2/Team/App/manifests/v1"), other: http.StatusBadRequest},
	}
	for i := range all {
		if all[i].other == 0 {
			all[i].other = http.StatusMethodNotAllowed
		}
	}
	return all
}
