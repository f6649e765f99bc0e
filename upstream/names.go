package upstream

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/eblume/caddy-registry/glob"
	"github.com/eblume/caddy-registry/storage"
)

// ErrTakesNoPush means that nothing can be pushed to a name, because it is or may be
// another registry's.
var ErrTakesNoPush = errors.New("name takes no push")

// dockerHub is the one upstream where a name of one component is short for library/….
const dockerHub = "docker.io"

// Names tells which repository a request means. It is not to be changed while it is in use.
type Names struct {
	// Upstreams are the names of the registries that are cached, such as docker.io. They
	// are what ?ns= says and what names of repositories begin with. There a port's colon,
	// which no name of a repository may have, is an underscore: localhost_5001/app is
	// app of localhost:5001.
	Upstreams []string
	// Default is the upstream of names that begin with none, or empty.
	Default string
	// Private are names that are never sent to Default.
	Private glob.Set
	// Local are this registry's own names in ?ns=, besides the request's Host.
	Local []string
}

// Mapped is what a name in a request stands for.
type Mapped struct {
	// Repository is storage's name: docker.io/library/nginx, or the name in the request
	// if it is this registry's own.
	Repository string
	// Upstream is whose repository it is, or empty if it is this registry's own.
	Upstream string
	// Remote is the upstream's own name of it: library/nginx.
	Remote string
	// ByDefault is set if only Default says that it is the upstream's. A blob is then
	// only to be asked for if a manifest that is cached there names it.
	ByDefault bool
}

// Check reports why names cannot be told apart or stored.
func (n Names) Check() error {
	for i, up := range n.Upstreams {
		if err := checkUpstream(up); err != nil {
			return err
		}
		for _, other := range n.Upstreams[:i] {
			if other == up {
				return fmt.Errorf("upstream %s is given twice", up)
			}
			if prefix(other) == prefix(up) {
				return fmt.Errorf("upstream %s: names that begin with %s are those of upstream %s already", up, prefix(up), other)
			}
		}
	}
	if n.Default != "" && !slices.Contains(n.Upstreams, n.Default) {
		return fmt.Errorf("default %s: there is no such upstream", n.Default)
	}
	for _, local := range n.Local {
		if local == "" || strings.ContainsAny(local, "/@?# ") {
			return fmt.Errorf("local host %q: must be a host's name, with its port if need be", local)
		}
		if up := n.byNamespace(local); up != "" {
			return fmt.Errorf("local host %s: it is upstream %s, and cannot be this registry too", local, up)
		}
	}
	return nil
}

// checkUpstream reports why name cannot be an upstream's: it must make a first component
// of a repository's name.
func checkUpstream(name string) error {
	_, port, found := strings.Cut(name, ":")
	if found {
		if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 || port[0] == '0' {
			return fmt.Errorf("upstream %s: %q is not a port", name, port)
		}
	}
	if strings.Contains(name, "/") || storage.CheckName(prefix(name)) != nil {
		return fmt.Errorf("upstream %q: must be a host's name in lower case, with its port if need be", name)
	}
	return nil
}

// Map returns what a name means in a request with the parameter ns, which is empty if
// it has none, and the header Host. What is private by the facts of storage or by
// policies is asked of known, but only if the answer matters; its error is returned.
// Other errors wrap storage.ErrNameUnknown if ns is another registry's and
// storage.ErrNameInvalid. A name that no rule gives to an upstream is this registry's
// own, whether it has it, or even could have it, or not.
func (n Names) Map(name, ns, host string, known func(name string) (bool, error)) (Mapped, error) {
	if ns != "" {
		up, err := n.resolveNamespace(ns, host)
		if err != nil {
			return Mapped{}, err
		}
		if up != "" {
			return mapTo(up, name, name)
		}
	}
	for _, up := range n.Upstreams {
		if remote, ok := cutUpstream(name, up); ok {
			return mapTo(up, remote, name)
		}
	}
	own := Mapped{Repository: name}
	if n.Default == "" || isHost(firstComponent(name)) || n.Private.Match(name) {
		return own, nil
	}
	private, err := known(name)
	if err != nil {
		return Mapped{}, err
	}
	if private {
		return own, nil
	}
	mapped, err := mapTo(n.Default, name, name)
	mapped.ByDefault = err == nil
	return mapped, err
}

// MapPush returns the repository that content is pushed to, in a request as that of Map.
// Errors wrap ErrTakesNoPush and storage.ErrNameUnknown. Whether the name is one, and
// who may make it, is not told.
func (n Names) MapPush(name, ns, host string) (string, error) {
	if ns != "" {
		up, err := n.resolveNamespace(ns, host)
		if err != nil {
			return "", err
		}
		if up != "" {
			return "", fmt.Errorf("%w: ns=%s is another registry, which is only cached here", ErrTakesNoPush, up)
		}
	}
	first := firstComponent(name)
	for _, up := range n.Upstreams {
		if isPrefix(first, up) {
			return "", fmt.Errorf("%w: %q is another registry, which is only cached here; push to a repository whose name begins otherwise", ErrTakesNoPush, first)
		}
	}
	if isHost(first) {
		return "", fmt.Errorf("%w: %q is a registry's host, push to a repository whose name begins otherwise", ErrTakesNoPush, first)
	}
	// These are what clients that use this registry as a mirror ask for most. A push would
	// turn nginx into something else for all of them.
	if n.Default != "" && (first == name || first == "library") {
		return "", fmt.Errorf("%w: %q is a name of %s, push to a repository with an organization, such as my-org/%s",
			ErrTakesNoPush, name, n.Default, name[strings.LastIndexByte(name, '/')+1:])
	}
	return name, nil
}

// Candidates returns the repositories that a name may stand for, whatever ns and what is
// private make of it.
func (n Names) Candidates(name string) []string {
	candidates := []string{name}
	for _, up := range n.Upstreams {
		remote, ok := cutUpstream(name, up)
		if !ok {
			remote = name
		}
		if mapped, err := mapTo(up, remote, name); err == nil && mapped.Repository != name {
			candidates = append(candidates, mapped.Repository)
		}
	}
	return candidates
}

// resolveNamespace returns the upstream that ns names, or nothing if it names this registry.
func (n Names) resolveNamespace(ns, host string) (string, error) {
	if up := n.byNamespace(ns); up != "" {
		return up, nil
	}
	if sameHost(ns, host) || slices.ContainsFunc(n.Local, func(local string) bool { return sameHost(ns, local) }) {
		return "", nil
	}
	return "", fmt.Errorf("%w: ns=%q is neither this registry nor one that it caches", storage.ErrNameUnknown, ns)
}

func (n Names) byNamespace(ns string) string {
	for _, up := range n.Upstreams {
		if strings.EqualFold(up, ns) {
			return up
		}
	}
	return ""
}

// mapTo maps an upstream's own name. Whole is the name in the request, to be used again.
func mapTo(up, remote, whole string) (Mapped, error) {
	// containerd with override_path sends ns and the prefix. A prefix without a dot may
	// be an organization of the same name, and is left.
	for isHost(up) {
		rest, ok := cutUpstream(remote, up)
		if !ok {
			break
		}
		remote = rest
	}
	if up == dockerHub && !strings.Contains(remote, "/") {
		remote = "library/" + remote
	}
	m := Mapped{Repository: whole, Upstream: up, Remote: remote}
	if cut, ok := cutUpstream(whole, up); !ok || cut != remote {
		m.Repository = prefix(up) + "/" + remote
	}
	// If the whole is a name, what is behind its first slash is one too.
	if err := storage.CheckName(m.Repository); err != nil {
		return Mapped{}, err
	}
	return m, nil
}

// prefix returns what the names of an upstream's repositories begin with.
func prefix(up string) string { return strings.Replace(up, ":", "_", 1) }

// isPrefix reports whether first is prefix(up), and allocates nothing.
func isPrefix(first, up string) bool {
	host, port, found := strings.Cut(up, ":")
	if !found {
		return first == up
	}
	return len(first) == len(up) && strings.HasPrefix(first, host) && first[len(host)] == '_' && strings.HasSuffix(first, port)
}

// cutUpstream returns what is behind an upstream's prefix and a slash.
func cutUpstream(name, up string) (remote string, ok bool) {
	if len(name) <= len(up)+1 || name[len(up)] != '/' || !isPrefix(name[:len(up)], up) {
		return "", false
	}
	return name[len(up)+1:], true
}

func firstComponent(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

// isHost reports whether the first component of a name is, as clients read it, a
// registry's host.
func isHost(first string) bool { return strings.ContainsAny(first, ".:") }

// sameHost compares hosts with their ports. A scheme's own port may be left out.
func sameHost(a, b string) bool { return strings.EqualFold(cutDefaultPort(a), cutDefaultPort(b)) }

func cutDefaultPort(host string) string {
	return strings.TrimSuffix(strings.TrimSuffix(host, ":443"), ":80")
}
