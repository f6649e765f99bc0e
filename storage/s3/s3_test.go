package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/google/uuid"
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

// TestEncryptionIsAskedFor of a service that does nothing else than to listen: those that
// can be started for tests have no encryption.
func TestEncryptionIsAskedFor(t *testing.T) {
	type asked struct{ method, encryption, key string }
	var mu sync.Mutex
	seen := make(map[asked]bool)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, multipart := r.URL.Query()["uploads"]
		if r.Method == http.MethodPut || multipart {
			seen[asked{r.Method, r.Header.Get("X-Amz-Server-Side-Encryption"), r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id")}] = true
		}
		if multipart {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer service.Close()
	s, err := Open(t.Context(), Options{
		Bucket: "bucket", Endpoint: service.URL, PathStyle: true, AccessKeyID: "id", SecretAccessKey: "secret", Spool: t.TempDir(),
		Encryption: types.ServerSideEncryptionAwsKms, EncryptionKey: "key",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.put(t.Context(), "small", strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	if err := s.put(t.Context(), "large", bytes.NewReader(make([]byte, partSize+1))); err == nil {
		t.Error("an upload was begun that was refused")
	}
	want := map[asked]bool{{http.MethodPut, "aws:kms", "key"}: true, {http.MethodPost, "aws:kms", "key"}: true}
	if !maps.Equal(seen, want) {
		t.Errorf("asked for %v, want %v", seen, want)
	}
}

// TestConflictsAreTriedAgain with a service that is removing the folder of an object at first.
func TestConflictsAreTriedAgain(t *testing.T) {
	var requests atomic.Int32
	var got string
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `<Error><Code>ExistingObjectIsDirectory</Code></Error>`)
			return
		}
		content, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = string(content)
	}))
	defer service.Close()
	s, err := Open(t.Context(), Options{
		Bucket: "bucket", Endpoint: service.URL, PathStyle: true, AccessKeyID: "id", SecretAccessKey: "secret", Spool: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.put(t.Context(), "name", strings.NewReader("content")); err != nil || got != "content" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOutagesAreToldFromRefusals(t *testing.T) {
	answered := func(status int) error {
		return fmt.Errorf("operation: %w", &awshttp.ResponseError{ResponseError: &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: &smithy.GenericAPIError{Code: "X"},
		}})
	}
	for _, err := range []error{answered(500), answered(503), answered(429), answered(409), answered(408), io.ErrUnexpectedEOF, &net.OpError{Op: "dial", Err: errors.New("refused")}, context.DeadlineExceeded} {
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

// TestNoAnswerOfTheServiceEndsAnUpload since the bytes are not at fault.
func TestNoAnswerOfTheServiceEndsAnUpload(t *testing.T) {
	var status atomic.Int32
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
	}))
	defer service.Close()
	s, err := Open(t.Context(), Options{
		Bucket: "bucket", Endpoint: service.URL, PathStyle: true, AccessKeyID: "id", SecretAccessKey: "secret", Spool: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, answer := range []int{http.StatusBadRequest, http.StatusForbidden, http.StatusConflict} {
		status.Store(int32(answer))
		for what, end := range map[string]func(storage.BlobWriter) error{
			"Suspend": func(w storage.BlobWriter) error {
				_, err := w.Suspend()
				return err
			},
			"Commit": func(w storage.BlobWriter) error {
				_, err := w.Commit(t.Context(), digest.FromString("content"))
				return err
			},
		} {
			w, err := s.Writer(t.Context(), uuid.NewString(), storage.UploadState{Algorithm: digest.SHA256})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.ReadFrom(strings.NewReader("content")); err != nil {
				t.Fatal(err)
			}
			if err := end(w); !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("%s, answered %d: %v", what, answer, err)
			}
			if err := w.Discard(); err != nil {
				t.Error(err)
			}
		}
	}
}
