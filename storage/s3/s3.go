// Package s3 keeps the bytes of blobs in a bucket of S3, or of a service that speaks its
// protocol. Uploads are gathered in a folder of this machine, and brought to the bucket when
// they become a blob, or when a client pauses: another process may then go on with them.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	transfertypes "github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/internal/dial"
)

// Options are those of [Open].
type Options struct {
	Bucket string
	// Endpoint is the URL of a service other than AWS.
	Endpoint string
	Region   string // default: as AWS' own configuration says, or us-east-1
	// AccessKeyID and SecretAccessKey are what requests are signed with. Default: what AWS'
	// own credential chain finds.
	AccessKeyID, SecretAccessKey string
	// Prefix is what all names in the bucket begin with.
	Prefix string
	// PathStyle has the bucket be in the path of URLs, rather than in the host.
	PathStyle bool
	// Encryption is how the service is to encrypt what it keeps; empty: as the bucket says.
	Encryption types.ServerSideEncryption
	// EncryptionKey is the id of the key for that, of AWS' key management; empty: its own.
	EncryptionKey string
	// Redirect has clients get the bytes of blobs from the service itself.
	Redirect bool
	// Spool is the folder of this machine that uploads are gathered in, for this process alone.
	Spool string
	// MinAge is how old what no fact mentions must be to be listed; 0: storage.MinOrphan.
	MinAge time.Duration
}

// Store is a [storage.BlobStore] in a bucket. Blobs are blobs/<algorithm>/<2 hex>/<hex>/<place>
// there, and what arrived of uploads that a client paused is uploads/<id>/<offset>/<place>.
type Store struct {
	client  *s3.Client
	presign *s3.PresignClient
	upload  *transfermanager.Client
	options Options
	spool   *filesystem.Store
	process string // tells whose spool has an upload
}

// Open returns the store in a bucket. It sends nothing yet.
func Open(ctx context.Context, options Options) (*Store, error) {
	loaders := []func(*config.LoadOptions) error{config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired), config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired)}
	if options.Region != "" {
		loaders = append(loaders, config.WithRegion(options.Region))
	}
	if options.AccessKeyID != "" {
		loaders = append(loaders, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(options.AccessKeyID, options.SecretAccessKey, "")))
	}
	loaded, err := config.LoadDefaultConfig(ctx, loaders...)
	if err != nil {
		return nil, err
	}
	if loaded.Region == "" {
		loaded.Region = "us-east-1"
	}
	if options.MinAge == 0 {
		options.MinAge = storage.MinOrphan
	}
	spool, err := filesystem.Open(ctx, options.Spool)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	client := s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.UsePathStyle = options.PathStyle
		o.HTTPClient = newClient()
		o.Retryer = retry.AddWithErrorCodes(o.Retryer, conflicts...)
		if options.Endpoint != "" {
			o.BaseEndpoint = &options.Endpoint
		}
	})
	return &Store{
		client:  client,
		presign: s3.NewPresignClient(client),
		upload: transfermanager.New(client, func(o *transfermanager.Options) {
			o.PartSizeBytes = partSize
			o.Concurrency = partsAtOnce
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		}),
		options: options,
		spool:   spool,
		process: uuid.NewString(),
	}, nil
}

const (
	// answerTimeout is how long the service may take to begin an answer.
	answerTimeout = 2 * time.Minute
	// silence is how long it may send nothing, be it in an answer or while a request is sent.
	silence = 5 * time.Minute
)

// newClient returns a client that gives up on a service that is silent.
func newClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithReadTimeout(silence).
		WithDialerOptions(func(d *net.Dialer) { *d = *dial.New() }).
		WithTransportOptions(func(t *http.Transport) { t.ResponseHeaderTimeout = answerTimeout })
}

// conflicts are what a service answers that is doing something else there. No two requests
// write one object, but a service that keeps objects as files may be removing its folder.
var conflicts = []string{"OperationAborted", "ExistingObjectIsDirectory"}

const (
	// partSize is what of an object is sent with one request.
	partSize = 16 << 20
	// partsAtOnce is how many of them.
	partsAtOnce = 4
)

// Close lets another process have the spool.
func (s *Store) Close() error { return s.spool.Close() }

// blobKey returns where a blob is in the bucket, or what all its places begin with.
func (s *Store) blobKey(key storage.BlobKey) string {
	hex := key.Digest.Encoded()
	return s.options.Prefix + "blobs/" + key.Digest.Algorithm().String() + "/" + hex[:2] + "/" + hex + "/" + key.Place
}

func (s *Store) uploadPrefix(id string) string { return s.options.Prefix + "uploads/" + id + "/" }

// keyID is nil if none is asked for.
func (s *Store) keyID() *string {
	if s.options.EncryptionKey == "" {
		return nil
	}
	return &s.options.EncryptionKey
}

// put makes what body has an object.
func (s *Store) put(ctx context.Context, name string, body io.Reader) error {
	_, err := s.upload.UploadObject(ctx, &transfermanager.UploadObjectInput{
		Bucket: &s.options.Bucket, Key: &name, Body: body,
		ServerSideEncryption: transfertypes.ServerSideEncryption(s.options.Encryption), SSEKMSKeyID: s.keyID(),
	})
	return explain(err)
}

// newPlace returns a place that no other process chooses.
func newPlace() string { return uuid.NewString() }

// Open implements [storage.BlobStore].
func (s *Store) Open(ctx context.Context, key storage.BlobKey) (io.ReadSeekCloser, error) {
	name, err := s.find(ctx, key)
	if err != nil {
		return nil, err
	}
	r := &reader{ctx: ctx, store: s, name: name}
	if err := r.open(); err != nil {
		if isAbsent(err) {
			return nil, fmt.Errorf("%w: the bucket has no %s", storage.ErrBlobUnknown, key.Digest)
		}
		return nil, explain(err)
	}
	return r, nil
}

// find returns the name of an object with the bytes of a blob.
func (s *Store) find(ctx context.Context, key storage.BlobKey) (string, error) {
	if key.Place != "" {
		return s.blobKey(key), nil
	}
	for object, err := range s.list(ctx, s.blobKey(key)) {
		return aws.ToString(object.Key), err
	}
	return "", fmt.Errorf("%w: the bucket has no %s", storage.ErrBlobUnknown, key.Digest)
}

// Delete implements [storage.BlobStore]. Of all places of a blob those stay that are young:
// another process may be about to tell of them, and else Blobs lists them in a while.
func (s *Store) Delete(ctx context.Context, key storage.BlobKey) error {
	if key.Place != "" {
		return s.remove(ctx, s.blobKey(key))
	}
	return s.removeAll(ctx, s.blobKey(key), s.options.MinAge)
}

func (s *Store) remove(ctx context.Context, name string) error {
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.options.Bucket, Key: &name})
	if isAbsent(err) {
		return nil
	}
	return explain(err)
}

// removeAll removes the objects whose names begin with a prefix; with an age only those that
// are as old.
func (s *Store) removeAll(ctx context.Context, prefix string, age time.Duration) error {
	for object, err := range s.list(ctx, prefix) {
		if err == nil && (age == 0 || time.Since(aws.ToTime(object.LastModified)) >= age) {
			err = s.remove(ctx, aws.ToString(object.Key))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// list lists the objects whose names begin with a prefix.
func (s *Store) list(ctx context.Context, prefix string) iter.Seq2[types.Object, error] {
	return func(yield func(types.Object, error) bool) {
		pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.options.Bucket, Prefix: &prefix})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(types.Object{}, explain(err))
				return
			}
			for _, object := range page.Contents {
				if !yield(object, nil) {
					return
				}
			}
		}
	}
}

// Blobs implements [storage.BlobStore]. Other objects that may lie around are passed over.
func (s *Store) Blobs(ctx context.Context) iter.Seq2[storage.BlobKey, error] {
	return func(yield func(storage.BlobKey, error) bool) {
		for object, err := range s.list(ctx, s.options.Prefix+"blobs/") {
			if err != nil {
				yield(storage.BlobKey{}, err)
				return
			}
			key, ok := s.parseBlob(aws.ToString(object.Key))
			if !ok || time.Since(aws.ToTime(object.LastModified)) < s.options.MinAge {
				continue
			}
			if !yield(key, nil) {
				return
			}
		}
	}
}

func (s *Store) parseBlob(name string) (storage.BlobKey, bool) {
	parts := strings.Split(strings.TrimPrefix(name, s.options.Prefix+"blobs/"), "/")
	if len(parts) != 4 || parts[3] == "" {
		return storage.BlobKey{}, false
	}
	key := storage.BlobKey{Digest: digest.NewDigestFromEncoded(digest.Algorithm(parts[0]), parts[2]), Place: parts[3]}
	return key, key.Digest.Validate() == nil && s.blobKey(key) == name
}

// OpenUpload implements [storage.BlobStore].
func (s *Store) OpenUpload(ctx context.Context, id string) (io.ReadSeekCloser, error) {
	return s.spool.OpenUpload(ctx, id)
}

// Discard implements [storage.BlobStore].
func (s *Store) Discard(ctx context.Context, id string) error {
	return errors.Join(s.spool.Discard(ctx, id), s.removeAll(ctx, s.uploadPrefix(id), 0))
}

// Uploads implements [storage.BlobStore].
func (s *Store) Uploads(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		seen := make(map[string]bool)
		for id, err := range s.spool.Uploads(ctx) {
			seen[id] = true
			if !yield(id, err) {
				return
			}
		}
		prefix := s.options.Prefix + "uploads/"
		for object, err := range s.list(ctx, prefix) {
			if err != nil {
				yield("", err)
				return
			}
			id, _, _ := strings.Cut(strings.TrimPrefix(aws.ToString(object.Key), prefix), "/")
			if seen[id] {
				continue
			}
			seen[id] = true
			if !yield(id, nil) {
				return
			}
		}
	}
}

// Interface guard
var _ storage.BlobStore = (*Store)(nil)
