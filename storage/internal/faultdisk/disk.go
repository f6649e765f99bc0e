// Package faultdisk is a disk in memory that loses power, fills up or breaks when a test
// says so. It serves a filesystem.Store and, as a virtual file system, SQLite, and
// promises as little as POSIX does: what was written to a file since its last sync, and
// which names a folder got or lost since its last sync, may be there after a loss of
// power or not, each for itself. Only a rename happens as a whole.
package faultdisk

import (
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/eblume/caddy-registry/storage/filesystem"
)

// ErrPowerOff is what every operation says while there is no power.
var ErrPowerOff = errors.New("no power")

// Disk is a disk in memory. Its methods are safe for concurrent use.
type Disk struct {
	mu    sync.Mutex
	root  *node
	names []nameChange // that no SyncDir has made durable, oldest first
	lies  Lies

	operations int // that changed, or were to change, something
	fault      fault
}

// Lies are what the disk says that it did and did not: what a program that forgets to
// ask for it would suffer.
type Lies struct {
	Sync         bool // of files, but those of SQLite
	SyncDir      bool
	DatabaseSync bool // of SQLite's files
}

// fault is what goes wrong with operations number from to until.
type fault struct {
	from, until int
	err         error
}

// node is a file or a folder, whatever its name.
type node struct {
	folder         bool
	entries        map[string]*node
	durableEntries map[string]*node

	content []byte
	durable []byte
	writes  []write // that no Sync has made durable, oldest first

	locks locks
}

// write is one call: bytes at an offset, or a truncation to it.
type write struct {
	offset   int64
	bytes    []byte
	truncate bool
	givenUp  bool // by a Sync that failed
}

// place is where a name is, or is not.
type place struct {
	folder *node
	name   string
}

// nameChange gives a node a name, takes one away, or both.
type nameChange struct {
	node     *node
	from, to place // the zero value: none
}

func newFolder() *node {
	return &node{folder: true, entries: map[string]*node{}, durableEntries: map[string]*node{}}
}

// New returns an empty disk.
func New() *Disk { return &Disk{root: newFolder()} }

// SetLies says what the disk lies about from now on.
func (d *Disk) SetLies(lies Lies) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lies = lies
}

// Failing tells whether the next operation that would change the disk fails.
func (d *Disk) Failing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fault.err != nil && d.operations+1 >= d.fault.from && d.operations+1 < d.fault.until
}

// Operations returns how many operations were to change the disk so far.
func (d *Disk) Operations() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.operations
}

// PowerOff cuts the power in place of the n-th operation from now that would change the
// disk: that one, and all that come after it, do nothing and fail.
func (d *Disk) PowerOff(n int) { d.fail(n, never, ErrPowerOff) }

// Fail makes the n-th operation from now that would change the disk, and those that
// follow until [Disk.Heal], fail with err. With ENOSPC only those fail that take room,
// with other errors reads do too.
func (d *Disk) Fail(n int, err error) { d.fail(n, never, err) }

// FailOnce is Fail for one operation.
func (d *Disk) FailOnce(n int, err error) { d.fail(n, 1, err) }

// Heal ends all faults.
func (d *Disk) Heal() { d.fail(0, 0, nil) }

const never = 1 << 60

func (d *Disk) fail(n, count int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault{from: d.operations + n, until: d.operations + n + count, err: err}
}

// operation is what kind of thing is done to a disk.
type operation int

const (
	read   operation = iota
	change           // that takes no room
	grow
)

// step accounts for an operation and returns what goes wrong with it.
func (d *Disk) step(o operation) error {
	if o != read {
		d.operations++
	}
	f := d.fault
	if f.err == nil || d.operations < f.from || d.operations >= f.until {
		return nil
	}
	if errors.Is(f.err, syscall.ENOSPC) && o != grow || f.until-f.from == 1 && o == read {
		return nil
	}
	return f.err
}

// find returns where a path leads: the folder, the last name, and what that stands for,
// which may be nothing.
func (d *Disk) find(name string) (place, *node, error) {
	name = path.Clean("/" + filepath.ToSlash(name))
	if name == "/" {
		return place{}, d.root, nil
	}
	folder := d.root
	parts := strings.Split(name[1:], "/")
	for _, part := range parts[:len(parts)-1] {
		if folder = folder.entries[part]; folder == nil || !folder.folder {
			return place{}, nil, fs.ErrNotExist
		}
	}
	at := place{folder, parts[len(parts)-1]}
	return at, folder.entries[at.name], nil
}

// rename gives a node a name, takes one away, or both.
func (d *Disk) rename(c nameChange) {
	if c.from.folder != nil {
		delete(c.from.folder.entries, c.from.name)
	}
	if c.to.folder != nil {
		c.to.folder.entries[c.to.name] = c.node
	}
	d.names = append(d.names, c)
}

// syncDir makes the changes of names in a folder durable.
func (d *Disk) syncDir(folder *node) {
	chosen := withEarlier(d.names, func(c nameChange) bool { return c.from.folder == folder || c.to.folder == folder })
	var rest []nameChange
	for i, c := range d.names {
		if !chosen[i] {
			rest = append(rest, c)
			continue
		}
		if from := c.from.folder; from != nil && from.durableEntries[c.from.name] == c.node {
			delete(from.durableEntries, c.from.name)
		}
		if to := c.to.folder; to != nil {
			to.durableEntries[c.to.name] = c.node
		}
	}
	d.names = rest
}

// withEarlier chooses changes, and with each the earlier ones of the same names: a
// folder does not forget what came first of what became of one name.
func withEarlier(changes []nameChange, choose func(nameChange) bool) []bool {
	chosen := make([]bool, len(changes))
	places := map[place]bool{}
	for i := len(changes) - 1; i >= 0; i-- {
		c := changes[i]
		if !choose(c) && !places[c.from] && !places[c.to] {
			continue
		}
		chosen[i] = true
		for _, at := range []place{c.from, c.to} {
			if at.folder != nil {
				places[at] = true
			}
		}
	}
	return chosen
}

// sync makes a file's bytes durable, but for those that were given up.
func (n *node) sync() {
	for _, w := range n.writes {
		if !w.givenUp {
			n.durable = w.apply(n.durable)
		}
	}
	n.writes = nil
}

// giveUp is what becomes of a file's bytes when a sync fails: they may have reached the
// disk or not, they can be read as long as there is power, and no later sync brings them
// to the disk.
func (n *node) giveUp() {
	for i := range n.writes {
		n.writes[i].givenUp = true
	}
}

// write changes a file's bytes.
func (n *node) write(w write) {
	n.content = w.apply(n.content)
	w.bytes = append([]byte(nil), w.bytes...)
	n.writes = append(n.writes, w)
}

func (w write) apply(content []byte) []byte {
	if w.truncate {
		if w.offset <= int64(len(content)) {
			return content[:w.offset:w.offset]
		}
		return append(content, make([]byte, w.offset-int64(len(content)))...)
	}
	end := w.offset + int64(len(w.bytes))
	if end > int64(len(content)) {
		content = append(content, make([]byte, end-int64(len(content)))...)
	}
	copy(content[w.offset:], w.bytes)
	return content
}

// Interface guards
var _ filesystem.Disk = (*Disk)(nil)
