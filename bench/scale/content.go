// Package scale fills a registry's database as one with many images would, and finds out
// how long each query of the API takes there, and by what plan.
package scale

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// manifestsEach is how many manifests a repository has, each with a tag.
	manifestsEach = 100
	// blobsEach is how many blobs a manifest names: a config and layers.
	blobsEach = 10
	// upstream is whose copies every fifth repository is.
	upstream = "docker.io"
)

// Size is how much there is.
type Size struct {
	Repositories int // each with 100 manifests of 10 blobs
}

// Manifests returns how many there are.
func (s Size) Manifests() int { return s.Repositories * manifestsEach }

// Held returns how many facts say that a repository holds a blob.
func (s Size) Held() int { return s.Manifests() * blobsEach }

// shared is how many blobs there are that many repositories have, as those of base images.
func (s Size) shared() int { return max(s.Repositories, blobsEach) }

// ownEach is how many blobs of a manifest no other repository has.
const ownEach = blobsEach - 1

// blobs returns how many there are: first those that are shared.
func (s Size) blobs() int { return s.shared() + s.Manifests()*ownEach }

// repository returns the name of a repository, by its number from 0.
func (s Size) repository(r int) string {
	if s.isCopy(r) {
		return fmt.Sprintf("%s/org%d/app%d", upstream, r%97, r)
	}
	return fmt.Sprintf("team%d/app%d", r%97, r)
}

func (s Size) isCopy(r int) bool { return r%5 == 4 }

func tag(m int) string { return fmt.Sprintf("v1.%d", m) }

// blob returns the number of a blob of a manifest, from 0. The last one is shared, and that
// of the first manifest by all repositories, as an empty configuration is.
func (s Size) blob(r, m, n int) int {
	if n == ownEach {
		if m == 0 {
			return 0
		}
		return (r*31 + m*17) % s.shared()
	}
	return s.shared() + (r*manifestsEach+m)*ownEach + n
}

func blobDigest(blob int) digest.Digest { return digest.FromString(fmt.Sprint("blob ", blob)) }

func blobSize(blob int) int64 { return int64(1000 + blob%100_000) }

// manifest is one of a repository.
type manifest struct {
	digest  digest.Digest
	content []byte
	subject digest.Digest // that of the manifest before, in some
	number  int           // in the repository
}

// manifests returns those of a repository, by their numbers.
func (s Size) manifests(r int) []manifest {
	all := make([]manifest, manifestsEach)
	for m := range all {
		all[m].number = m
		if m%20 == 19 {
			all[m].subject = all[m-1].digest
		}
		all[m].content = s.manifest(r, m, all[m].subject)
		all[m].digest = digest.FromBytes(all[m].content)
	}
	return all
}

func (s Size) manifest(r, m int, subject digest.Digest) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"schemaVersion":2,"mediaType":%q`, imagespec.MediaTypeImageManifest)
	for n := range blobsEach {
		switch n {
		case 0:
			fmt.Fprintf(&b, `,"config":{"mediaType":%q,`, imagespec.MediaTypeImageConfig)
		case 1:
			fmt.Fprintf(&b, `,"layers":[{"mediaType":%q,`, imagespec.MediaTypeImageLayerGzip)
		default:
			fmt.Fprintf(&b, `,{"mediaType":%q,`, imagespec.MediaTypeImageLayerGzip)
		}
		blob := s.blob(r, m, n)
		fmt.Fprintf(&b, `"digest":%q,"size":%d}`, blobDigest(blob), blobSize(blob))
	}
	b.WriteString("]")
	if subject != "" {
		fmt.Fprintf(&b, `,"subject":{"mediaType":%q,"digest":%q,"size":1}`, imagespec.MediaTypeImageManifest, subject)
	}
	fmt.Fprintf(&b, `,"annotations":{"repository":"%d"}}`, r)
	return b.Bytes()
}

// ranks returns the keys of all blobs, by their numbers: they are in the order of their
// digests, so that a database is filled from one end to the other.
func (s Size) ranks() (keys []int32, byKey []int32) {
	hashes := make([][8]byte, s.blobs())
	byKey = make([]int32, len(hashes))
	for blob := range hashes {
		sum := sha256.Sum256(fmt.Append(nil, "blob ", blob))
		copy(hashes[blob][:], sum[:])
		byKey[blob] = int32(blob)
	}
	slices.SortFunc(byKey, func(a, b int32) int { return bytes.Compare(hashes[a][:], hashes[b][:]) })
	keys = make([]int32, len(byKey))
	for rank, blob := range byKey {
		keys[blob] = int32(rank + 1)
	}
	return keys, byKey
}

// keyHash is what is kept of the API key of a number.
func keyHash(n int) [32]byte { return sha256.Sum256(fmt.Append(nil, "key ", n)) }

func keyID(n int) string { return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, "key ", n)).String() }
