//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/eblume/caddy-registry/storage/s3"
)

const (
	s3Key    = "registry"
	s3Secret = "secret-of-s3"
)

// s3Server is a running versitygw, which keeps objects as files.
type s3Server struct {
	*home
	addr string
	cmd  *exec.Cmd
	made atomic.Int64 // buckets
}

func newS3(t *testing.T) *s3Server {
	t.Helper()
	s := &s3Server{home: newHome(t), addr: "127.0.0.1:" + lastingPort(t)}
	s.mkdir("objects")
	t.Cleanup(func() {
		if s.cmd != nil {
			s.stop()
		}
	})
	return s
}

func (s *s3Server) start() {
	s.t.Helper()
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(tool(s.t, "versitygw"), "--access", s3Key, "--secret", s3Secret, "--region", "us-east-1", "--port", s.addr, "posix", s.path("objects"))
	s.cmd.Env, s.cmd.Dir = s.env, s.dir
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "S3 answers", func() error {
		conn, err := net.DialTimeout("tcp", s.addr, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (s *s3Server) stop() {
	s.t.Helper()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

func (s *s3Server) url() string { return "http://" + s.addr }

// newBucket makes an empty bucket.
func (s *s3Server) newBucket(t testing.TB) string {
	t.Helper()
	name := "registry" + strconv.FormatInt(s.made.Add(1), 10)
	if _, err := s.client().CreateBucket(context.Background(), &awss3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
	return name
}

func (s *s3Server) client() *awss3.Client {
	return awss3.New(awss3.Options{
		BaseEndpoint: aws.String(s.url()), UsePathStyle: true, Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider(s3Key, s3Secret, ""),
	})
}

// names returns the names of the objects in a bucket that begin with a prefix.
func (s *s3Server) names(t testing.TB, bucket, prefix string) (names []string) {
	t.Helper()
	pages := awss3.NewListObjectsV2Paginator(s.client(), &awss3.ListObjectsV2Input{Bucket: &bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range page.Contents {
			names = append(names, aws.ToString(object.Key))
		}
	}
	return names
}

// registry is a registry as it is usually served, with its bytes in a bucket.
func (s *s3Server) registry(bucket string) string {
	return strings.Replace(registryCaddyfile, "storage filesystem {$STORAGE}", s.options(bucket, "on"), 1)
}

// open opens a store in a bucket.
func (s *s3Server) open(bucket, spool string) (*s3.Store, error) {
	store, err := s3.Open(context.Background(), s3.Options{
		Bucket: bucket, Endpoint: s.url(), Region: "us-east-1", AccessKeyID: s3Key, SecretAccessKey: s3Secret,
		Prefix: "of/tests/", PathStyle: true, Spool: spool, MinAge: time.Nanosecond,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bucket %s", bucket), err)
	}
	return store, nil
}
