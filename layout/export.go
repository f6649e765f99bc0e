package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

// Selection is a repository, or what a tag or digest of it names.
type Selection struct {
	Repository string
	Reference  string // empty: all tags
}

// ExportOptions say how content is exported.
type ExportOptions struct {
	// Report gets a line for each problem, and how far it is. It may be nil.
	Report storage.Report
}

// pageSize is how many tags or referrers are asked for at a time.
const pageSize = 1000

// Export writes what is selected to a folder: as one layout if that is of one repository,
// else as a layout in a folder below for each, so that Import brings them back. Entries of
// indexes, and what refers to a manifest, such as signatures, come along. A layout that is
// there is added to. Until its index.json is replaced at last it is what it was.
// ErrProblems: some blobs are not here, as those that a cache has evicted, and were told.
func Export(ctx context.Context, registry *storage.Registry, selections []Selection, folder string, options ExportOptions) (Summary, error) {
	repositories := make(map[string][]string) // → references
	var names []string
	for _, s := range selections {
		if err := storage.CheckName(s.Repository); err != nil {
			return Summary{}, err
		}
		if _, known := repositories[s.Repository]; !known {
			names = append(names, s.Repository)
		}
		repositories[s.Repository] = append(repositories[s.Repository], s.Reference)
	}
	ex := &exporter{ExportOptions: options, registry: registry}
	for _, name := range names {
		where := folder
		if len(names) > 1 {
			where = filepath.Join(folder, filepath.FromSlash(name))
		}
		if err := ex.export(ctx, name, repositories[name], where); err != nil {
			return ex.Summary, fmt.Errorf("%s: %w", name, err)
		}
	}
	if ex.Problems > 0 {
		return ex.Summary, fmt.Errorf("%w: %d left out", ErrProblems, ex.Problems)
	}
	return ex.Summary, nil
}

type exporter struct {
	ExportOptions
	registry *storage.Registry
	Summary
}

func (ex *exporter) problem(format string, args ...any) {
	ex.Problems++
	ex.tell(fmt.Sprintf(format, args...))
}

func (ex *exporter) tell(line string) {
	if ex.Report != nil {
		ex.Report(storage.Progress{Line: line, Done: ex.Bytes, Unit: "bytes"})
	}
}

// destination is a layout that is being written.
type destination struct {
	*exporter
	repository string
	folder     string
	index      imagespec.Index
	written    map[digest.Digest]bool // manifests
}

func (ex *exporter) export(ctx context.Context, repository string, references []string, folder string) error {
	d := &destination{exporter: ex, repository: repository, folder: folder, written: make(map[digest.Digest]bool)}
	if err := d.open(); err != nil {
		return err
	}
	for _, reference := range references {
		if reference != "" {
			if err := d.add(ctx, reference); err != nil {
				return err
			}
			continue
		}
		for last := ""; ; {
			tags, err := ex.registry.Tags(ctx, repository, last, pageSize)
			if err != nil {
				return err
			}
			if len(tags) == 0 {
				break
			}
			last = tags[len(tags)-1]
			for _, tag := range tags {
				if err := d.add(ctx, tag); err != nil {
					return err
				}
			}
		}
	}
	ex.Repositories++
	return d.close()
}

// open reads the layout that is there, or begins one.
func (d *destination) open() error {
	if err := os.MkdirAll(filepath.Join(d.folder, "blobs"), 0o755); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(d.folder, indexFile))
	if errors.Is(err, fs.ErrNotExist) {
		d.index = imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex}
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, &d.index); err != nil {
		return fmt.Errorf("%s in %s: %w", indexFile, d.folder, err)
	}
	return nil
}

// close writes what makes the folder a layout.
func (d *destination) close() error {
	version, err := json.Marshal(imagespec.ImageLayout{Version: imagespec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(d.folder, layoutFile), bytes.NewReader(version)); err != nil {
		return err
	}
	index, err := json.Marshal(d.index)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(d.folder, indexFile), bytes.NewReader(index))
}

// add exports what a tag or digest names.
func (d *destination) add(ctx context.Context, reference string) error {
	ref, err := storage.ParseReference(reference)
	if err != nil {
		return err
	}
	m, err := d.registry.Manifest(ctx, d.repository, ref)
	if err != nil {
		return err
	}
	if err := d.write(ctx, m); err != nil {
		return err
	}
	d.list(m, ref.Tag)
	if ref.Tag != "" {
		d.Tags++
	}
	return nil
}

// list puts a manifest into index.json, once for each of its tags, and without one only
// if it has none.
func (d *destination) list(m *storage.Manifest, tag string) {
	d.index.Manifests = slices.DeleteFunc(d.index.Manifests, func(desc imagespec.Descriptor) bool {
		name := desc.Annotations[imagespec.AnnotationRefName]
		return name == tag && (tag != "" || desc.Digest == m.Digest) || name == "" && desc.Digest == m.Digest
	})
	desc := imagespec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Content))}
	if tag != "" {
		desc.Annotations = map[string]string{imagespec.AnnotationRefName: tag}
	} else if slices.ContainsFunc(d.index.Manifests, func(other imagespec.Descriptor) bool { return other.Digest == m.Digest }) {
		return
	}
	d.index.Manifests = append(d.index.Manifests, desc)
}

// write writes a manifest, what it consists of and what refers to it.
func (d *destination) write(ctx context.Context, m *storage.Manifest) error {
	if d.written[m.Digest] {
		return nil
	}
	d.written[m.Digest] = true
	parsed, err := storage.ParseManifest(m.MediaType, m.Content, m.Digest.Algorithm())
	if err != nil {
		return err
	}
	for _, blob := range slices.Concat(parsed.Required, parsed.Elsewhere) {
		if err := d.writeBlob(ctx, blob, slices.Contains(parsed.Required, blob)); err != nil {
			return err
		}
	}
	for _, child := range parsed.Children {
		if err := d.writeOther(ctx, child, false); err != nil {
			return err
		}
	}
	if err := d.writeFile(m.Digest, int64(len(m.Content)), bytes.NewReader(m.Content)); err != nil {
		return err
	}
	d.Manifests++
	return d.writeReferrers(ctx, m.Digest)
}

func (d *destination) writeReferrers(ctx context.Context, subject digest.Digest) error {
	for last := digest.Digest(""); ; {
		page, err := d.registry.Referrers(ctx, d.repository, subject, "", last, pageSize)
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1].Digest
		for _, desc := range page {
			if err := d.writeOther(ctx, desc.Digest, true); err != nil {
				return err
			}
		}
	}
}

// writeOther writes a manifest that comes along, if it is here, and lists it if nothing
// in the layout would lead to it.
func (d *destination) writeOther(ctx context.Context, other digest.Digest, listed bool) error {
	m, err := d.registry.Manifest(ctx, d.repository, storage.Reference{Digest: other})
	if errors.Is(err, storage.ErrManifestUnknown) {
		return nil // an index may name what is elsewhere
	}
	if err != nil {
		return err
	}
	if err := d.write(ctx, m); err != nil {
		return err
	}
	if listed {
		d.list(m, "")
	}
	return nil
}

func (d *destination) writeBlob(ctx context.Context, blob digest.Digest, needed bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if info, err := os.Lstat(d.file(blob)); err == nil && info.Mode().IsRegular() {
		if size, err := d.registry.StatBlob(ctx, d.repository, blob); err == nil && size == info.Size() {
			return nil
		}
	}
	content, size, err := d.registry.OpenBlob(ctx, d.repository, blob)
	if errors.Is(err, storage.ErrBlobUnknown) {
		if needed {
			d.problem("%s: blob %s is not here", d.repository, blob)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer content.Close()
	if err := d.writeFile(blob, size, storage.ContextReader(ctx, content)); err != nil {
		return err
	}
	d.Blobs++
	d.Bytes += size
	d.tell("")
	return nil
}

func (d *destination) file(blob digest.Digest) string {
	return filepath.Join(d.folder, "blobs", blob.Algorithm().String(), blob.Encoded())
}

// writeFile writes the bytes of a blob or manifest, if they are right.
func (d *destination) writeFile(blob digest.Digest, size int64, content io.Reader) error {
	name := d.file(blob)
	if info, err := os.Lstat(name); err == nil && info.Mode().IsRegular() && info.Size() == size {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	verifier := blob.Verifier()
	return writeChecked(name, io.TeeReader(content, verifier), func() error {
		if !verifier.Verified() {
			return fmt.Errorf("%w: the stored bytes of %s are others; registry verify tells more", storage.ErrDigestInvalid, blob)
		}
		return nil
	})
}

// writeFile writes a file as a whole or not at all.
func writeFile(name string, content io.Reader) error {
	return writeChecked(name, content, func() error { return nil })
}

// writeChecked is writeFile of what is right when all of it has been read.
func writeChecked(name string, content io.Reader, check func() error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".writing-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, content); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(check(), f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
