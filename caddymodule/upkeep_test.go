package caddymodule_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// upkeepSite is a registry of which commands are asked, with the server up.
func upkeepSite(t *testing.T, options string) (s site, file string) {
	t.Helper()
	port := freePort(t)
	config := global(filepath.Join(t.TempDir(), "storage"), options) + fmt.Sprintf("http://127.0.0.1:%d {\n\tregistry\n}\n", port)
	run(t, config)
	return site{t: t, host: fmt.Sprintf("127.0.0.1:%d", port)}, writeCaddyfile(t, config)
}

// do runs a command that must succeed.
func do(t *testing.T, file string, args ...string) string {
	t.Helper()
	out, err := command(t, append(args, "--config", file)...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

func TestDeletedTagsAreListedAndRestored(t *testing.T) {
	s, file := upkeepSite(t, "")
	first := s.putIndex("team/app", "v1", "1")
	s.putIndex("team/app", "v1", "2")
	if out := do(t, file, "tags", "team/app"); strings.Count(out, "\n") != 2 || !strings.Contains(out, "v1 ") {
		t.Errorf("tags: %s", out)
	}
	do(t, file, "delete", "team/app")
	history := do(t, file, "tags", "team/app", "--history")
	if strings.Count(history, "\n") != 3 || !strings.Contains(history, first.String()) || strings.Count(history, "yes") != 2 {
		t.Errorf("history: %s", history)
	}
	do(t, file, "gc")
	do(t, file, "restore-tag", "team/app:v1", "--digest", first.String())
	if a := s.send(nil, http.MethodGet, "/v2/team/app/manifests/v1"); a.status != http.StatusOK || string(a.body) != string(index("1")) {
		t.Errorf("restored: %d %s", a.status, a.body)
	}
	for args, want := range map[string]string{
		"restore-tag team/app --digest " + first.String():                     "REPOSITORY:TAG",
		"restore-tag team/app:v1 --digest sha256:abc":                         "digest invalid",
		"restore-tag team/app:v1 --digest sha256:" + strings.Repeat("0", 64):  "neither in repository",
		"restore-tag team/app:v1":                                             "digest",
		"restore-tag team/none:v1 --digest sha256:" + strings.Repeat("0", 64): "there is no repository",
		"tags team/none": "there is no repository",
		"tags Team/App":  "lower-case",
	} {
		if out, err := command(t, append(strings.Fields(args), "--config", file)...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q, %v, want %q", args, out, err, want)
		}
	}
}

// awaitCollection returns when the server has collected, as a new one does at its start.
func awaitCollection(t *testing.T, file string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(do(t, file, "stats", "--json"), `"collected":`); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was collected")
		}
	}
}

// ages are how commands tell how long ago something was.
var ages = regexp.MustCompile(`\d+ seconds? ago|for \d+s`)

func TestGarbageIsCollectedByACommandAsConfigured(t *testing.T) {
	s, file := upkeepSite(t, "gc {\ndelay 1s\n}\nretention team/** {\nkeep_tags v2\n}")
	awaitCollection(t, file)
	s.putIndex("team/app", "v1", "1")
	s.putIndex("team/app", "v2", "2")
	s.putIndex("other", "v1", "1")
	s.putBlob("other", "loose")
	time.Sleep(2100 * time.Millisecond) // what is loose is so for longer than the delay
	dry := do(t, file, "gc", "--dry-run")
	for _, want := range []string{"tag team/app:v1", "retention team/**", "manifest team/app@", "blob other@", "would remove 1 tag, 1 manifest, 1 blob (5 B)"} {
		if !strings.Contains(dry, want) {
			t.Errorf("a dry run does not tell %q: %s", want, dry)
		}
	}
	// Between two runs only ages may change.
	if again := do(t, file, "gc", "--dry-run"); ages.ReplaceAllString(again, "") != ages.ReplaceAllString(dry, "") {
		t.Errorf("a dry run changed something: %s\nit was: %s", again, dry)
	}
	if out := do(t, file, "gc"); !strings.Contains(out, "removed 1 tag, 1 manifest, 1 blob (5 B)") {
		t.Errorf("gc: %s", out)
	}
	for path, want := range map[string]int{"team/app/manifests/v1": 404, "team/app/manifests/v2": 200, "other/manifests/v1": 200} {
		if a := s.send(nil, http.MethodGet, "/v2/"+path); a.status != want {
			t.Errorf("%s: %d, want %d", path, a.status, want)
		}
	}
}

// TestGarbageIsCollectedByItself waits for the server to do it.
func TestGarbageIsCollectedByItself(t *testing.T) {
	s, file := upkeepSite(t, "gc {\ninterval 1s\ndelay 1s\n}")
	s.putBlob("team/app", "loose")
	for deadline := time.Now().Add(time.Minute); ; {
		if out := do(t, file, "stats", "--json"); strings.Contains(out, `"blobs":0`) {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("nothing is collected: %s", out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestAPushOverQuotaIsRefusedWithWords(t *testing.T) {
	s, _ := upkeepSite(t, "quota team/** 1KiB\nquota ** 1MiB")
	for name, method := range map[string]func(content []byte) answer{
		"POST": func(content []byte) answer {
			return s.send(nil, http.MethodPost, "/v2/team/app/blobs/uploads/?digest=sha256:"+strings.Repeat("0", 64), content...)
		},
		"PATCH": func(content []byte) answer {
			return s.send(nil, http.MethodPatch, s.startUpload("team/app"), content...)
		},
		"PUT": func(content []byte) answer {
			return s.send(nil, http.MethodPut, s.startUpload("team/app")+"?digest=sha256:"+strings.Repeat("0", 64), content...)
		},
	} {
		a := method(make([]byte, 2000))
		if a.status != http.StatusForbidden || !strings.Contains(string(a.body), "DENIED") || !strings.Contains(a.message(), "quota team/**") {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	s.putBlob("team/app", strings.Repeat("a", 1000))
	s.putBlob("other", strings.Repeat("b", 2000))
}

func TestBackupsAndExportsComeBack(t *testing.T) {
	s, file := upkeepSite(t, "")
	s.putBlob("team/app", "a layer")
	want := s.putIndex("team/app", "v1", "1")
	s.putIndex("other", "v1", "2")
	folder := t.TempDir()
	backup, export := filepath.Join(folder, "backup"), filepath.Join(folder, "export")
	if out := do(t, file, "backup", backup); !strings.Contains(out, "copied 1 blob (7 B) of 1") {
		t.Errorf("backup: %s", out)
	}
	if out := do(t, file, "backup", backup); !strings.Contains(out, "copied 0 blobs (0 B) of 1") {
		t.Errorf("backup again: %s", out)
	}
	if out := do(t, file, "export", "team/app", "other:v1", "--to", export); !strings.Contains(out, "exported 2 tags of 2 repositories") {
		t.Errorf("export: %s", out)
	}
	if _, err := os.Stat(filepath.Join(export, "team", "app", "index.json")); err != nil {
		t.Error(err)
	}
	for name, args := range map[string][]string{"restore": {"restore", backup}, "import": {"import", export}} {
		empty, into := upkeepSite(t, "")
		do(t, into, args...)
		a := empty.send(nil, http.MethodGet, "/v2/team/app/manifests/v1")
		if a.status != http.StatusOK || a.header.Get("Docker-Content-Digest") != want.String() {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if out := do(t, into, "verify"); !strings.Contains(out, "0 damaged") {
			t.Errorf("verify: %s", out)
		}
	}
}

func TestCommandsSayWhatIsWrongInOneLine(t *testing.T) {
	s, file := upkeepSite(t, "")
	s.putIndex("team/app", "v1", "1")
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"backup " + other:                      "other files",
		"backup":                               "accepts 1 arg",
		"restore " + other:                     "not empty",
		"import " + other:                      "index.json",
		"import " + filepath.Join(other, "no"): "no such file",
		"export team/app":                      "--to",
		"export team/none --to " + filepath.Join(other, "e"): "there is no repository",
		"export team/app: --to " + filepath.Join(other, "e"): "nothing follows",
		"gc now": "unknown command",
	} {
		out, err := command(t, append(strings.Fields(args), "--config", file)...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q, %v, want %q", args, out, err, want)
		}
	}
}

func TestWrongUpkeepOptionsAreRefusedWithTheirLine(t *testing.T) {
	for options, want := range map[string]string{
		"gc 24h":                                     "Caddyfile:3",
		"gc {\nevery 1h\n}":                          `unrecognized option "every", at Caddyfile:4`,
		"gc {\ndelay soon\n}":                        `invalid duration "soon"`,
		"gc {\ndelay 1h\ndelay 2h\n}":                "delay is given twice, at Caddyfile:5",
		"gc {\n}\ngc {\n}":                           "gc is given twice, at Caddyfile:5",
		"retention {\nkeep_last 1\n}":                "Caddyfile:3",
		"retention a/** {\n}":                        "no tag would be kept, at Caddyfile:3",
		"retention a/**":                             "no tag would be kept, at Caddyfile:3",
		"retention a:b {\nkeep_last 1\n}":            `bad glob "a:b"`,
		"retention a {\nkeep_last none\n}":           "must be a number of tags",
		"retention a {\nkeep_last 0\n}":              "at least 1",
		"retention a {\nkeep_tags\n}":                "Caddyfile:4",
		"retention a {\nkeep_tags [\n}":              `bad glob "["`,
		"retention a {\nkeep_pulled_within never\n}": `invalid duration "never"`,
		"retention a {\nforget all\n}":               `unrecognized option "forget", at Caddyfile:4`,
		"quota a/**":                                 "Caddyfile:3",
		"quota 5GiB":                                 "Caddyfile:3",
		"quota a/** 5":                               `"5" needs a unit such as GiB, at Caddyfile:3`,
		"quota a/** much":                            `"much" is no size such as 20GiB, at Caddyfile:3`,
		"quota a:b 5GiB":                             `bad glob "a:b"`,
		"scrub weekly":                               "Caddyfile:3",
		"scrub {\nrate fast\n}":                      `"fast" is no size such as 20GiB, at Caddyfile:4`,
		"scrub {\nat night\n}":                       `unrecognized option "at", at Caddyfile:4`,
	} {
		_, err := tryAdapt("{\n\tregistry {\n" + options + "\n}\n}\n")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", options, err, want)
		}
	}
}
