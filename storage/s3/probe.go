package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/eblume/caddy-registry/storage"
)

const (
	// checkTimeout is how long the service may take to say that the bucket is there.
	checkTimeout = 2 * time.Second
	// probeTimeout is how long it may take to do everything once.
	probeTimeout = 30 * time.Second
)

// Check implements [storage.Remote].
func (s *Store) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	_, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.options.Bucket})
	if isAbsent(err) {
		return fmt.Errorf("there is no bucket %s: %w", s.options.Bucket, err)
	}
	return explain(err)
}

// Probe implements [storage.Remote], with an object of its own.
func (s *Store) Probe(ctx context.Context) error {
	probing, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	p := probe{store: s, name: s.options.Prefix + "probe/" + newPlace(), content: []byte("caddy-registry asks what this service can do")}
	steps := []step{
		{"write an object", p.write},
		{"read a part of an object", p.read},
		{"list objects", p.list},
		{"begin and abort a multipart upload", p.multipart},
	}
	if s.options.Redirect {
		steps = append(steps, step{"read by a presigned URL", p.presigned})
	}
	steps = append(steps, step{"delete an object", p.remove})
	for _, step := range steps {
		if err := step.try(probing); err != nil {
			p.cleanUp(ctx)
			return fmt.Errorf("bucket %s: cannot %s: %w", s.options.Bucket, step.what, explain(err))
		}
	}
	return nil
}

// step is something that a service must be able to do.
type step struct {
	what string
	try  func(context.Context) error
}

// probe is what is done to find out what a service can do.
type probe struct {
	store   *Store
	name    string
	content []byte
}

var errOther = errors.New("it gave other bytes")

func (p *probe) write(ctx context.Context) error {
	return p.store.put(ctx, p.name, bytes.NewReader(p.content))
}

func (p *probe) read(ctx context.Context) error {
	output, err := p.store.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &p.store.options.Bucket, Key: &p.name, Range: aws.String("bytes=6-13")})
	if err != nil {
		return err
	}
	return compare(output.Body, p.content[6:14])
}

func (p *probe) list(ctx context.Context) error {
	for object, err := range p.store.list(ctx, p.name) {
		if err != nil || aws.ToString(object.Key) == p.name {
			return err
		}
	}
	return errors.New("what was just written is not listed")
}

func (p *probe) multipart(ctx context.Context) error {
	begun, err := p.store.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &p.store.options.Bucket, Key: &p.name,
		ServerSideEncryption: p.store.options.Encryption, SSEKMSKeyId: p.store.keyID(),
	})
	if err != nil {
		return err
	}
	_, err = p.store.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &p.store.options.Bucket, Key: &p.name, UploadId: begun.UploadId})
	return err
}

func (p *probe) presigned(ctx context.Context) error {
	url, err := (&reader{store: p.store, name: p.name}).URL(ctx)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return errors.New(response.Status)
	}
	return compare(response.Body, p.content)
}

func (p *probe) remove(ctx context.Context) error { return p.store.remove(ctx, p.name) }

// cleanUp removes what may be there, whatever has become of who asked.
func (p *probe) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	_ = p.remove(ctx)
}

func compare(body io.ReadCloser, want []byte) error {
	defer body.Close()
	got, err := io.ReadAll(io.LimitReader(body, int64(len(want))+1))
	if err == nil && !slices.Equal(got, want) {
		err = errOther
	}
	return err
}

// Interface guard
var _ storage.Remote = (*Store)(nil)
