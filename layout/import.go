package layout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/eblume/caddy-registry/storage"
)

// ImportOptions say how a folder is imported.
type ImportOptions struct {
	// Prefix is put before the names of repositories, and a slash, or is the name if the
	// folder is one layout.
	Prefix string
	// Link has files linked rather than copied where that can be done.
	Link bool
	// MaxKeyLifetime is how long an API key of zot works from now on that has no end; 0: a year.
	MaxKeyLifetime time.Duration
	// Report gets a line for each problem, and how far it is. It may be nil.
	Report storage.Report
}

// Import brings all of a folder, a layout or a folder of layouts, into a registry. What is
// there already is passed over, so that one that was interrupted is simply run again. Tags
// that name something else here are left as they are. ErrProblems: some of it could not
// be imported, as was told.
func Import(ctx context.Context, registry *storage.Registry, folder string, options ImportOptions) (Summary, error) {
	// Blobs come before the manifests that name them.
	release, err := registry.HoldCollection(ctx, options.Report)
	if err != nil {
		return Summary{}, err
	}
	defer release()
	root, err := os.OpenRoot(folder)
	if err != nil {
		return Summary{}, err
	}
	defer root.Close()
	layouts, err := findLayouts(root)
	if err != nil {
		return Summary{}, fmt.Errorf("%s: %w", folder, err)
	}
	im := &importer{ImportOptions: options, registry: registry, total: sizeOf(root, layouts)}
	for _, where := range layouts {
		if err := im.importLayout(ctx, &source{root, folder, where}); err != nil {
			return im.Summary, err
		}
	}
	if err := im.importKeys(ctx, root, folder); err != nil {
		return im.Summary, err
	}
	if im.Problems > 0 {
		return im.Summary, fmt.Errorf("%w: %d left out", ErrProblems, im.Problems)
	}
	return im.Summary, nil
}

// sizeOf returns how many bytes the blobs of layouts have.
func sizeOf(root *os.Root, layouts []string) (total int64) {
	for _, where := range layouts {
		// What cannot be read is found out when it is imported.
		_ = fs.WalkDir(root.FS(), path.Join(where, "blobs"), func(_ string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				if info, err := entry.Info(); err == nil {
					total += info.Size()
				}
			}
			return nil
		})
	}
	return total
}

type importer struct {
	ImportOptions
	registry *storage.Registry
	total    int64

	mu sync.Mutex
	Summary
	done int64
}

func (im *importer) problem(format string, args ...any) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.Problems++
	im.tell(fmt.Sprintf(format, args...))
}

// tell tells a line, or how far it is; im.mu is held.
func (im *importer) tell(line string) {
	if im.Report != nil {
		im.Report(storage.Progress{Line: line, Done: im.done, Total: max(im.total, im.done), Unit: "bytes"})
	}
}

// target is the repository that a layout is imported to.
type target struct{ name, upstream string }

// targetOf returns the repository of a layout. One whose name begins with a host is a
// copy of that registry's, as zot caches them.
func (im *importer) targetOf(s *source) (target, error) {
	name := s.path
	switch {
	case name == "." && im.Prefix != "":
		name = im.Prefix
	case name == ".":
		name = filepath.Base(s.folder)
	case im.Prefix != "":
		name = im.Prefix + "/" + name
	}
	host, rest, _ := strings.Cut(name, "/")
	if host == "docker.io" && !strings.Contains(rest, "/") && rest != "" {
		name = "docker.io/library/" + rest // Docker Hub's own name of it
	}
	if err := storage.CheckName(name); err != nil {
		return target{}, fmt.Errorf("%w; --prefix gives another", err)
	}
	if strings.Contains(host, ".") && rest != "" {
		return target{name, host}, nil
	}
	return target{name: name}, nil
}

// planned is a manifest of a layout, behind those that it consists of.
type planned struct {
	*storage.Manifest
	tags []string
}

func (im *importer) importLayout(ctx context.Context, s *source) error {
	to, err := im.targetOf(s)
	if err != nil {
		im.problem("%s: %v", s.path, err)
		return nil
	}
	index, err := s.index()
	if err != nil {
		im.problem("%s: %v", s.path, err)
		return nil
	}
	plan := &plan{importer: im, source: s, to: to, seen: make(map[digest.Digest]int)}
	for _, desc := range index {
		plan.add(desc, tagOf(desc), 0)
	}
	wrong, err := im.importBlobs(ctx, s, to, plan.manifests)
	if err != nil {
		return err
	}
	im.Repositories++
	for _, m := range plan.manifests {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := im.importManifest(ctx, to, m, wrong); err != nil {
			return err
		}
	}
	return nil
}

// plan is the manifests of a layout in the order in which they are imported.
type plan struct {
	*importer
	source    *source
	to        target
	manifests []planned
	seen      map[digest.Digest]int // → where among manifests, -1 if it cannot be imported
}

// maxDepth is how deep indexes may be in each other.
const maxDepth = 20

// add plans a manifest and what it consists of.
func (p *plan) add(desc imagespec.Descriptor, tag string, depth int) {
	if tag != "" {
		if err := storage.CheckTag(tag); err != nil {
			p.problem("%s: %v", p.to.name, err)
			tag = ""
		}
	}
	at, seen := p.seen[desc.Digest]
	if !seen {
		p.seen[desc.Digest] = -1 // so that an index which contains itself comes to an end
		m, err := p.source.manifest(desc)
		switch {
		case errors.Is(err, fs.ErrNotExist) && depth > 0:
			return // an index may name what is elsewhere
		case err != nil:
			p.problem("%s@%s: %v", p.to.name, desc.Digest, err)
			return
		case depth == maxDepth:
			p.problem("%s@%s: there are indexes in indexes over %d deep", p.to.name, desc.Digest, maxDepth)
			return
		}
		for _, child := range m.Children {
			p.add(imagespec.Descriptor{Digest: child}, "", depth+1)
		}
		at = len(p.manifests)
		p.manifests = append(p.manifests, planned{Manifest: m})
		p.seen[desc.Digest] = at
	}
	if at >= 0 && tag != "" {
		p.manifests[at].tags = append(p.manifests[at].tags, tag)
	}
}

// importBlobs imports what manifests need, and returns what is wrong with those that
// cannot be.
func (im *importer) importBlobs(ctx context.Context, s *source, to target, manifests []planned) (map[digest.Digest]error, error) {
	var mu sync.Mutex
	wrong := make(map[digest.Digest]error)
	asked := make(map[digest.Digest]bool)
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for _, m := range manifests {
		for i, d := range append(m.Required[:len(m.Required):len(m.Required)], m.Elsewhere...) {
			if asked[d] {
				continue
			}
			asked[d] = true
			needed := i < len(m.Required)
			workers.Go(func() error {
				err := im.importBlob(ctx, s, to, d)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if errors.Is(err, storage.ErrFull) || errors.Is(err, storage.ErrQuota) {
					return err
				}
				if err != nil && needed {
					mu.Lock()
					wrong[d] = err
					mu.Unlock()
				}
				return nil
			})
		}
	}
	return wrong, workers.Wait()
}

func (im *importer) importBlob(ctx context.Context, s *source, to target, d digest.Digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := storage.ParseDigest(d.String()); err != nil {
		return err
	}
	file, size, err := s.blobFile(d)
	if err != nil {
		return err
	}
	came, linked, err := im.registry.ImportBlob(ctx, to.name, to.upstream, d, file, im.Link)
	im.mu.Lock()
	defer im.mu.Unlock()
	im.done += size
	im.tell("")
	if came {
		im.Blobs++
		im.Bytes += size
	}
	if linked && came {
		im.Linked++
	}
	return err
}

// errTaken keeps a tag what it is.
var errTaken = errors.New("the tag names something else here, and is left as it is")

func (im *importer) importManifest(ctx context.Context, to target, m planned, wrong map[digest.Digest]error) error {
	for _, d := range m.Required {
		if err := wrong[d]; err != nil {
			im.problem("%s@%s: blob %s: %v", to.name, m.Digest, d, err)
			return nil
		}
	}
	put := im.put
	if to.upstream != "" {
		put = im.putCopy
	}
	for _, tag := range append([]string{""}, m.tags...) {
		err := put(ctx, to, m.Manifest, tag)
		switch {
		case err == nil && tag == "":
			im.Manifests++
		case err == nil:
			im.Tags++
		case errors.Is(err, errTaken):
			im.problem("%s:%s: %v", to.name, tag, err)
		case errors.Is(err, storage.ErrFull), ctx.Err() != nil:
			return err
		default:
			im.problem("%s@%s: %v", to.name, m.Digest, err)
			return nil
		}
	}
	return nil
}

// put puts a manifest into one of this registry's own repositories.
func (im *importer) put(ctx context.Context, to target, m *storage.Manifest, tag string) error {
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	_, err := im.registry.PutManifest(ctx, to.name, m, storage.Put{Tags: tags, Check: func(_ string, exists bool) error {
		if exists {
			return errTaken
		}
		return nil
	}})
	return err
}

// putCopy puts a manifest into a copy. What the upstream says of the tag now is to be
// asked when it is pulled next.
func (im *importer) putCopy(ctx context.Context, to target, m *storage.Manifest, tag string) error {
	if tag != "" {
		here, err := im.registry.Manifest(ctx, to.name, storage.Reference{Tag: tag})
		if err == nil && here.Digest == m.Digest {
			return nil
		}
		if err == nil {
			return errTaken
		}
	}
	if err := im.registry.PutCached(ctx, to.upstream, to.name, m, tag); err != nil || tag == "" {
		return err
	}
	return im.registry.ConfirmTag(ctx, to.name, tag, time.Unix(0, 0))
}
