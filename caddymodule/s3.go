package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/s3"
)

func init() {
	caddy.RegisterModule(S3{})
}

// S3 keeps blobs in a bucket of AWS, or of any service that speaks its protocol. All
// options that are text may have placeholders.
type S3 struct {
	// The bucket, which must be there.
	Bucket string `json:"bucket,omitempty"`

	// The URL of a service other than AWS, such as `https://s3.example.com`.
	Endpoint string `json:"endpoint,omitempty"`

	// Default: what AWS' own configuration says, or `us-east-1`.
	Region string `json:"region,omitempty"`

	// Whose key requests are signed with. Default: what AWS' credential chain finds.
	AccessKeyID string `json:"access_key_id,omitempty"`

	// That key.
	SecretAccessKey string `json:"secret_access_key,omitempty"`

	// What all names in the bucket begin with, such as `registry/`.
	Prefix string `json:"prefix,omitempty"`

	// How the service is to encrypt what it keeps: `AES256` or `aws:kms`. Default: as the
	// bucket says.
	Encryption string `json:"encryption,omitempty"`

	// The id of the key for `aws:kms`. Default: AWS' own.
	EncryptionKey string `json:"encryption_key,omitempty"`

	// The folder of this machine that uploads are gathered in, and where the database and
	// the control socket are unless they are elsewhere. One server at a time may use it.
	// Default: `registry` in Caddy's data directory.
	Spool string `json:"spool,omitempty"`

	// Have the bucket be in the path of URLs, rather than in the host, as many services
	// other than AWS want.
	PathStyle bool `json:"path_style,omitempty"`

	// Whether clients get blobs from the service itself, by a redirect to a URL that works
	// for 20 minutes. Default: true.
	Redirect *bool `json:"redirect,omitempty"`
}

var (
	errBucketIsNeeded = errors.New("bucket is needed")
	errBothKeys       = errors.New("access_key_id and secret_access_key are given together or not at all")
)

// CaddyModule returns the Caddy module information.
func (S3) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "registry.storage.s3", New: func() caddy.Module { return new(S3) }}
}

// UnmarshalCaddyfile sets up the module from Caddyfile tokens. Syntax:
//
//	s3 {
//		bucket            <name>
//		endpoint          <url>
//		region            <name>
//		access_key_id     <id>
//		secret_access_key <key>
//		prefix            <text>
//		path_style
//		encryption        AES256|aws:kms [<key id>]
//		redirect          on|off    # default: on
//		spool             <path>
//	}
func (s *S3) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.ArgErr()
	}
	texts := map[string]*string{
		"bucket": &s.Bucket, "endpoint": &s.Endpoint, "region": &s.Region, "access_key_id": &s.AccessKeyID,
		"secret_access_key": &s.SecretAccessKey, "prefix": &s.Prefix, "spool": &s.Spool,
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if text, ok := texts[option]; ok {
			if !d.AllArgs(text) {
				return d.ArgErr()
			}
			continue
		}
		switch option {
		case "path_style":
			if d.NextArg() {
				return d.ArgErr()
			}
			s.PathStyle = true
		case "encryption":
			if !d.Args(&s.Encryption) {
				return d.ArgErr()
			}
			d.Args(&s.EncryptionKey) // if there is one
			if err := noMore(d); err != nil {
				return err
			}
			if err := checkEncryption(s.Encryption, s.EncryptionKey); err != nil {
				return d.WrapErr(err)
			}
		case "redirect":
			var value string
			if !d.AllArgs(&value) {
				return d.ArgErr()
			}
			if value != "on" && value != "off" {
				return d.Errf("redirect must be on or off, not %q", value)
			}
			on := value == "on"
			s.Redirect = &on
		default:
			return d.Errf("unknown option %q of s3", option)
		}
	}
	return nil
}

// Provision resolves the options. Nothing is connected yet.
func (s *S3) Provision(caddy.Context) (err error) {
	for _, option := range []struct {
		name string
		text *string
	}{
		{"bucket", &s.Bucket},
		{"endpoint", &s.Endpoint},
		{"region", &s.Region},
		{"access_key_id", &s.AccessKeyID},
		{"secret_access_key", &s.SecretAccessKey},
		{"prefix", &s.Prefix},
		{"encryption_key", &s.EncryptionKey},
	} {
		if *option.text, err = replace(*option.text); err != nil {
			return fmt.Errorf("s3: %s: %w", option.name, err)
		}
	}
	if s.Bucket == "" {
		return fmt.Errorf("s3: %w", errBucketIsNeeded)
	}
	if err := checkEncryption(s.Encryption, s.EncryptionKey); err != nil {
		return fmt.Errorf("s3: %w", err)
	}
	if (s.AccessKeyID == "") != (s.SecretAccessKey == "") {
		return fmt.Errorf("s3: %w", errBothKeys)
	}
	if s.Endpoint != "" {
		if u, err := url.Parse(s.Endpoint); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return fmt.Errorf("s3: endpoint %q: must begin with https:// or http:// and a host", s.Endpoint)
		}
	}
	if s.Spool == "" {
		s.Spool = filepath.Join(caddy.AppDataDir(), "registry")
		return nil
	}
	s.Spool, err = resolvePath(s.Spool)
	return err
}

func checkEncryption(name, key string) error {
	switch types.ServerSideEncryption(name) {
	case "", types.ServerSideEncryptionAes256:
		if key != "" {
			return errors.New("encryption_key is for aws:kms")
		}
		return nil
	case types.ServerSideEncryptionAwsKms:
		return nil
	}
	return fmt.Errorf("encryption must be AES256 or aws:kms, not %q", name)
}

// Directory implements [BlobStoreModule].
func (s *S3) Directory() string { return s.Spool }

// Key implements [BlobStoreModule].
func (s *S3) Key() string { return s.Bytes() + " by " + s.Spool }

// Bytes implements [BlobStoreModule].
func (s *S3) Bytes() string {
	return fmt.Sprintf("s3 %s %s/%s", strings.TrimSuffix(s.Endpoint, "/"), s.Bucket, s.Prefix)
}

// Open implements [BlobStoreModule].
func (s *S3) Open(ctx context.Context) (storage.BlobStore, error) {
	store, err := s3.Open(ctx, s3.Options{
		Bucket: s.Bucket, Endpoint: s.Endpoint, Region: s.Region, Prefix: s.Prefix, PathStyle: s.PathStyle,
		AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey,
		Encryption: types.ServerSideEncryption(s.Encryption), EncryptionKey: s.EncryptionKey,
		Redirect: s.Redirect == nil || *s.Redirect, Spool: s.Spool,
	})
	if err != nil {
		return nil, fmt.Errorf("s3 %s: %w", s.Bucket, err)
	}
	return store, nil
}

// Interface guards
var (
	_ BlobStoreModule       = (*S3)(nil)
	_ caddy.Provisioner     = (*S3)(nil)
	_ caddyfile.Unmarshaler = (*S3)(nil)
)
