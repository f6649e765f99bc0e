package upstream

import (
	"math"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// list is what an upstream said a while ago.
type list[T any] struct {
	at    time.Time
	items []T
	bytes int
}

const (
	// maxListed is how many bytes the lists that are remembered take together, about.
	maxListed = 32 << 20
	// listOverhead is about what a list takes besides its items, and an item besides its texts.
	listOverhead = 200
)

// lists remembers what upstreams listed, least recently used first out.
type lists[T any] struct {
	size  func(T) int
	mu    sync.Mutex
	lru   *simplelru.LRU[string, list[T]]
	bytes int
}

func newLists[T any](size func(T) int) *lists[T] {
	l := &lists[T]{size: size}
	lru, err := simplelru.NewLRU(math.MaxInt32, func(_ string, removed list[T]) { l.bytes -= removed.bytes })
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	l.lru = lru
	return l
}

func tagSize(tag string) int { return len(tag) + 16 }

func descriptorSize(desc imagespec.Descriptor) int {
	n := listOverhead + len(desc.Digest) + len(desc.MediaType) + len(desc.ArtifactType) + len(desc.Data)
	for key, value := range desc.Annotations {
		n += listOverhead + len(key) + len(value)
	}
	for _, url := range desc.URLs {
		n += 16 + len(url)
	}
	return n
}

func (l *lists[T]) get(key string) (list[T], bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lru.Get(key)
}

func (l *lists[T]) put(key string, items []T) {
	added := list[T]{time.Now(), items, listOverhead + len(key)}
	for _, item := range items {
		added.bytes += l.size(item)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lru.Remove(key)
	l.lru.Add(key, added)
	for l.bytes += added.bytes; l.bytes > maxListed; {
		l.lru.RemoveOldest()
	}
}
