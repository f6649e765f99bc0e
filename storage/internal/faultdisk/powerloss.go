package faultdisk

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Survival tells what a loss of power leaves of what was not synced.
type Survival int

const (
	Nothing Survival = iota
	// Prefix leaves what came first, of each file and of the names.
	Prefix
	// Subset leaves any pages of writes and any names.
	Subset
	// Everything leaves all, as the end of a process does.
	Everything
)

func (s Survival) String() string {
	return [...]string{"nothing", "a prefix", "a subset", "everything"}[s]
}

// Survivals are all of them.
var Survivals = []Survival{Nothing, Prefix, Subset, Everything}

// pageSize is what is written as a whole or not at all.
const pageSize = 4096

// AfterPowerLoss returns the disk as it is found when the power is back. The disk that
// lost it stays as it is.
func (d *Disk) AfterPowerLoss(survival Survival, random *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := &loss{
		survival: survival,
		random:   random,
		entries:  map[*node]map[string]*node{},
		nodes:    map[*node]*node{},
	}
	l.replay(d.names)
	return &Disk{root: l.survivor(d.root)}
}

// loss is one loss of power.
type loss struct {
	survival Survival
	random   *rand.Rand
	entries  map[*node]map[string]*node // what is left in folders
	nodes    map[*node]*node            // before → after
}

func (l *loss) left(folder *node) map[string]*node {
	if l.entries[folder] == nil {
		l.entries[folder] = maps.Clone(folder.durableEntries)
	}
	return l.entries[folder]
}

// replay makes the changes of names that survive.
func (l *loss) replay(changes []nameChange) {
	first := l.first(len(changes))
	i := len(changes)
	survives := withEarlier(changes, func(nameChange) bool {
		i--
		return i < first && l.survives()
	})
	for i, c := range changes {
		if !survives[i] {
			continue
		}
		if c.from.folder != nil && l.left(c.from.folder)[c.from.name] == c.node {
			delete(l.left(c.from.folder), c.from.name)
		}
		if c.to.folder != nil {
			l.left(c.to.folder)[c.to.name] = c.node
		}
	}
}

// first returns how many of n things may survive.
func (l *loss) first(n int) int {
	switch l.survival {
	case Nothing:
		return 0
	case Prefix:
		return l.random.IntN(n + 1)
	}
	return n
}

// survives tells whether one thing does that may.
func (l *loss) survives() bool { return l.survival != Subset || l.random.IntN(2) == 0 }

// survivor returns what a file or folder is afterwards.
func (l *loss) survivor(n *node) *node {
	if after := l.nodes[n]; after != nil {
		return after
	}
	after := &node{folder: n.folder}
	l.nodes[n] = after
	if n.folder {
		after.entries = map[string]*node{}
		for name, child := range l.left(n) {
			after.entries[name] = l.survivor(child)
		}
		after.durableEntries = maps.Clone(after.entries)
		return after
	}
	if l.survival == Everything {
		after.content = slices.Clone(n.content)
		after.durable = slices.Clone(n.content)
		return after
	}
	content := append([]byte(nil), n.durable...)
	var pages []write
	for _, w := range n.writes {
		pages = append(pages, w.pages()...)
	}
	for _, w := range pages[:l.first(len(pages))] {
		if l.survives() {
			content = w.apply(content)
		}
	}
	after.content = content
	after.durable = append([]byte(nil), content...)
	return after
}

// pages returns the parts of a write that may survive each for itself.
func (w write) pages() []write {
	var pages []write
	for int64(len(w.bytes)) > pageSize-w.offset%pageSize {
		n := pageSize - w.offset%pageSize
		pages = append(pages, write{offset: w.offset, bytes: w.bytes[:n]})
		w.offset += n
		w.bytes = w.bytes[n:]
	}
	return append(pages, w)
}
