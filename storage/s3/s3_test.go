package s3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/opencontainers/go-digest"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/eblume/caddy-registry/storage"
)

// Whether a service does what it is asked is tested with one, among the tests of clients.

func TestNamesOfBlobsAreReadBack(t *testing.T) {
	for _, prefix := range []string{"", "registry/", "a/b-"} {
		s := &Store{options: Options{Prefix: prefix}}
		for _, d := range []digest.Digest{digest.FromString("x"), digest.SHA512.FromString("x")} {
			key := storage.BlobKey{Digest: d, Place: newPlace()}
			if got, ok := s.parseBlob(s.blobKey(key)); !ok || got != key {
				t.Errorf("%s is read as %v, %v", s.blobKey(key), got, ok)
			}
		}
		hex := digest.FromString("x").Encoded()
		for _, name := range []string{
			"", prefix, prefix + "blobs/", prefix + "blobs/sha256/" + hex[:2] + "/" + hex, prefix + "blobs/sha256/" + hex[:2] + "/" + hex + "/",
			prefix + "blobs/sha256/00/" + hex + "/place", prefix + "blobs/md5/" + hex[:2] + "/" + hex + "/place",
			prefix + "blobs/sha256/" + hex[:2] + "/" + hex + "/place/more", prefix + "uploads/id/0/place",
		} {
			if key, ok := s.parseBlob(name); ok {
				t.Errorf("%q is read as %v", name, key)
			}
		}
	}
}

func TestOutagesAreToldFromRefusals(t *testing.T) {
	answered := func(status int) error {
		return fmt.Errorf("operation: %w", &awshttp.ResponseError{ResponseError: &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: &smithy.GenericAPIError{Code: "X"},
		}})
	}
	for _, err := range []error{answered(500), answered(503), answered(429), &net.OpError{Op: "dial", Err: errors.New("refused")}, context.DeadlineExceeded} {
		if !errors.Is(explain(err), storage.ErrUnavailable) {
			t.Errorf("%v is no outage", err)
		}
	}
	for _, err := range []error{nil, answered(403), answered(404), context.Canceled} {
		if errors.Is(explain(err), storage.ErrUnavailable) {
			t.Errorf("%v is an outage", err)
		}
	}
	if !isAbsent(fmt.Errorf("get: %w", &smithy.GenericAPIError{Code: "NoSuchKey"})) || isAbsent(answered(500)) {
		t.Error("what is absent is not told from the rest")
	}
}
