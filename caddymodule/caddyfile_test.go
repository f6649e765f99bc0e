package caddymodule_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestAdaptedCaddyfiles compares what Caddyfiles mean with what testdata says. A file
// has the Caddyfile, a line of ten hyphens, and the JSON.
func TestAdaptedCaddyfiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			caddyfile, want, ok := strings.Cut(string(content), "----------\n")
			if !ok {
				t.Fatal("no line of ten hyphens")
			}
			var got bytes.Buffer
			if err := json.Indent(&got, adapt(t, caddyfile), "", "\t"); err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(got.String()) != strings.TrimSpace(want) {
				t.Errorf("got\n%s", &got)
			}
		})
	}
}

func TestWrongOptionsAreRefusedWithTheirLine(t *testing.T) {
	for caddyfile, want := range map[string]string{
		"{\n\tregistry {\n\t\tcolour red\n\t}\n}":                                     `unrecognized option "colour", at Caddyfile:3`,
		"{\n\tregistry here\n}":                                                       "at Caddyfile:2",
		"{\n\tregistry {\n\t\tstorage\n\t}\n}":                                        "at Caddyfile:3",
		"{\n\tregistry {\n\t\tstorage floppy\n\t}\n}":                                 "module not registered: registry.storage.floppy",
		"{\n\tregistry {\n\t\tstorage filesystem /a /b\n\t}\n}":                       "at Caddyfile:3",
		"{\n\tregistry {\n\t\tstorage filesystem {\n\t\t\tpath /a\n\t\t}\n\t}\n}":     `unrecognized option "path", at Caddyfile:4`,
		"{\n\tregistry {\n\t\tstorage filesystem /a\n\t\tstorage filesystem\n\t}\n}":  "storage is given twice, at Caddyfile:4",
		"{\n\tregistry {\n\t\tdatabase sqlite a b\n\t}\n}":                            "at Caddyfile:3",
		"{\n\tregistry {\n\t\tdatabase postgres\n\t}\n}":                              "at Caddyfile:3",
		"{\n\tregistry {\n\t\tdatabase postgres a b\n\t}\n}":                          "at Caddyfile:3",
		"{\n\tregistry {\n\t\tstorage s3 images\n\t}\n}":                              "at Caddyfile:3",
		"{\n\tregistry {\n\t\tstorage s3 {\n\t\t\tcolour red\n\t\t}\n\t}\n}":          `unknown option "colour" of s3, at Caddyfile:4`,
		"{\n\tregistry {\n\t\tstorage s3 {\n\t\t\tbucket a b\n\t\t}\n\t}\n}":          "at Caddyfile:4",
		"{\n\tregistry {\n\t\tstorage s3 {\n\t\t\tencryption rot13\n\t\t}\n\t}\n}":    `encryption must be AES256 or aws:kms, not "rot13", at Caddyfile:4`,
		"{\n\tregistry {\n\t\tstorage s3 {\n\t\t\tencryption AES256 k\n\t\t}\n\t}\n}": `encryption_key is for aws:kms, at Caddyfile:4`,
		"{\n\tregistry {\n\t\tstorage s3 {\n\t\t\tredirect maybe\n\t\t}\n\t}\n}":      `redirect must be on or off, not "maybe", at Caddyfile:4`,
		"{\n\tregistry {\n\t\tsparse maybe\n\t}\n}":                                   `sparse must be on, index or off, not "maybe", at Caddyfile:3`,
		"{\n\tregistry {\n\t\tsparse\n\t}\n}":                                         "at Caddyfile:3",
		"{\n\tregistry {\n\t\tupload_expiry soon\n\t}\n}":                             `invalid duration "soon"`,
		"{\n\tregistry {\n\t\tupload_expiry 0s\n\t}\n}":                               "duration 0s must be positive",
		"{\n\tregistry\n\tregistry\n}":                                                "registry is configured already",
		"http://:1 {\n\tregistry /v2/* now\n}":                                        "at Caddyfile:2",
		"http://:1 {\n\tregistry {\n\t\tsparse on\n\t}\n}":                            `unrecognized option "sparse", at Caddyfile:3`,
	} {
		_, err := tryAdapt(caddyfile)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", caddyfile, err, want)
		}
	}
}

// TestWrongEnginesAreRefusedByTheirOption when what placeholders stand for is known.
func TestWrongEnginesAreRefusedByTheirOption(t *testing.T) {
	for options, want := range map[string]string{
		"storage s3": "bucket is needed",
		"storage s3 {\nbucket {env.NO_BUCKET}\n}":      "bucket",
		"storage s3 {\nbucket a\nendpoint s3.local\n}": "endpoint",
		"storage s3 {\nbucket a\naccess_key_id k\n}":   "secret_access_key",
		"database postgres {env.NO_URL}":               "url",
		"database postgres nonsense://me:secret@x":     "neither a URL of PostgreSQL",
	} {
		var config caddy.Config
		if err := json.Unmarshal(adapt(t, "{\nregistry {\n"+options+"\n}\n}\nhttp://:1 {\nregistry\n}\n"), &config); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&config); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%q: %v, want %q", options, err, want)
		}
	}
}
