package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/eblume/caddy-registry/storage"
)

// reader reads an object from wherever it is asked to, with a request for each place.
type reader struct {
	ctx   context.Context
	store *Store
	name  string

	size int64 // of the object
	at   int64 // where the next Read begins
	body io.ReadCloser
	next int64 // what the body gives next
}

// open finds out about the object. Unless clients are sent for it, it is asked for at
// once, so that it can be read to its end when it is deleted meanwhile.
func (r *reader) open() error {
	if !r.store.options.Redirect {
		return r.request()
	}
	output, err := r.store.client.HeadObject(r.ctx, &s3.HeadObjectInput{Bucket: &r.store.options.Bucket, Key: &r.name})
	if err == nil {
		r.size = aws.ToInt64(output.ContentLength)
	}
	return err
}

// request asks for the object from r.at on.
func (r *reader) request() error {
	input := &s3.GetObjectInput{Bucket: &r.store.options.Bucket, Key: &r.name}
	if r.at > 0 {
		input.Range = aws.String(fmt.Sprintf("bytes=%d-", r.at))
	}
	output, err := r.store.client.GetObject(r.ctx, input)
	if err != nil {
		return err
	}
	if r.at == 0 {
		r.size = aws.ToInt64(output.ContentLength)
	}
	r.body, r.next = output.Body, r.at
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	if r.body != nil && r.next != r.at {
		r.close()
	}
	if r.body == nil {
		if err := r.request(); err != nil {
			return 0, explain(err)
		}
	}
	n, err := r.body.Read(p)
	r.at += int64(n)
	r.next = r.at
	if errors.Is(err, io.EOF) && r.at < r.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("offset before the beginning")
	}
	r.at = offset
	return offset, nil
}

func (r *reader) close() {
	_ = r.body.Close() // of what was read all is known
	r.body = nil
}

func (r *reader) Close() error {
	if r.body != nil {
		r.close()
	}
	return nil
}

// urlLasts is how long what URL returns can be used.
const urlLasts = 20 * time.Minute

// URL implements [storage.Redirectable].
func (r *reader) URL(ctx context.Context) (string, error) {
	if !r.store.options.Redirect {
		return "", nil
	}
	request, err := r.store.presign.PresignGetObject(ctx, &s3.GetObjectInput{
		Bucket: &r.store.options.Bucket, Key: &r.name, ResponseContentType: aws.String("application/octet-stream"),
	}, s3.WithPresignExpires(urlLasts))
	if err != nil {
		return "", err
	}
	return request.URL, nil
}

// Interface guards
var (
	_ io.ReadSeekCloser    = (*reader)(nil)
	_ storage.Redirectable = (*reader)(nil)
)
