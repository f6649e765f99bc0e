package caddymodule

import (
	"encoding/json"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/eblume/caddy-registry/glob"
	"github.com/eblume/caddy-registry/upstream"
)

func parseCacheOptions(text string) (*Cache, error) {
	c := new(Cache)
	return c, c.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
}

const everyCacheOption = `registry_cache {
	default docker.io
	upstream docker.io {
		url {env.TEST_MIRROR}/
		url https://registry-1.docker.io
		credentials {env.TEST_USER} {env.TEST_TOKEN}
		fresh 5m
		fresh v*.*.* *-[0-9a-f]* forever
		fresh nightly* {env.TEST_FRESH}
		stale_if_error 30d
		not_found_ttl 10s
		allow library/* {bitnami,acme}/*
		deny */*-beta
		ca_file {env.TEST_DIR}/corp.pem
	}
	upstream ghcr.io {
		docker_config
		allow **
		stale_if_error forever
	}
	upstream localhost:5001 {
		docker_config /etc/docker.json
		allow **
	}
	upstream quay.io
	private blumeops/** acme/*
	local_hosts registry.ops.eblu.me {env.TEST_HOST}
	min_free {env.TEST_FREE}
	prefetch on
}`

func TestEveryCacheOption(t *testing.T) {
	parsed, err := parseCacheOptions(everyCacheOption)
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	c := new(Cache)
	if err := caddy.StrictUnmarshalJSON(config, c); err != nil || !reflect.DeepEqual(c, parsed) {
		t.Errorf("as JSON: %s, %v", config, err)
	}
	directory := t.TempDir()
	for name, value := range map[string]string{
		"TEST_MIRROR": "http://mirror.example:5000/hub", "TEST_USER": "me", "TEST_TOKEN": "secret", "TEST_FRESH": "1h",
		"TEST_DIR": directory, "TEST_HOST": "registry.example", "TEST_FREE": "20GiB",
	} {
		t.Setenv(name, value)
	}
	resolved, err := c.resolve()
	if err != nil {
		t.Fatal(err)
	}
	if want := (cacheOptions{
		names: upstream.Names{
			Upstreams: []string{"docker.io", "ghcr.io", "localhost:5001", "quay.io"}, Default: "docker.io",
			Private: glob.Set{"blumeops/**", "acme/*"}, Local: []string{"registry.ops.eblu.me", "registry.example"},
		},
		upstreams: []upstreamOptions{{
			name: "docker.io", urls: []string{"http://mirror.example:5000/hub", "https://registry-1.docker.io"}, username: "me", password: "secret",
			caFile: filepath.Join(directory, "corp.pem"), staleIfError: 720 * time.Hour, notFoundTTL: 10 * time.Second,
			fresh: upstream.Freshness{
				{For: 5 * time.Minute}, {Tags: glob.Set{"v*.*.*", "*-[0-9a-f]*"}, Forever: true}, {Tags: glob.Set{"nightly*"}, For: time.Hour},
			},
			access: upstream.Access{Allow: glob.Set{"library/*", "{bitnami,acme}/*"}, Deny: glob.Set{"*/*-beta"}},
		}, {
			name: "ghcr.io", urls: []string{"https://ghcr.io"}, dockerConfig: filepath.Join(caddy.HomeDir(), ".docker", "config.json"),
			notFoundTTL: 30 * time.Second, access: upstream.Access{Allow: glob.Set{"**"}},
		}, {
			name: "localhost:5001", urls: []string{"https://localhost:5001"}, dockerConfig: "/etc/docker.json",
			notFoundTTL: 30 * time.Second, access: upstream.Access{Allow: glob.Set{"**"}},
		}, {
			name: "quay.io", urls: []string{"https://quay.io"}, notFoundTTL: 30 * time.Second,
		}},
		minFree: freeSpace{bytes: 20 << 30}, prefetch: true,
	}); !reflect.DeepEqual(resolved, want) {
		t.Errorf("got  %+v\nwant %+v", resolved, want)
	}
}

func TestCacheDefaults(t *testing.T) {
	c, err := parseCacheOptions("registry_cache {\n\tupstream docker.io\n}")
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.resolve()
	if err != nil {
		t.Fatal(err)
	}
	if want := (cacheOptions{
		names:     upstream.Names{Upstreams: []string{"docker.io"}},
		upstreams: []upstreamOptions{{name: "docker.io", urls: []string{"https://registry-1.docker.io"}, notFoundTTL: 30 * time.Second}},
		minFree:   freeSpace{percent: 5},
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestWrongCacheOptionsAreRefusedWithTheirLine(t *testing.T) {
	for options, want := range map[string]string{
		"":                                                          "at least one upstream is needed, at Testfile:1",
		"colour red":                                                `unrecognized option "colour", at Testfile:2`,
		"upstream a\nmax_size 1000":                                 `"1000" needs a unit such as GiB, at Testfile:3`,
		"upstream a\nmax_size lots":                                 `"lots" is no size such as 20GiB, at Testfile:3`,
		"upstream a\nmax_size":                                      `Testfile:3`,
		"upstream a\nkeep {a":                                       `Testfile:3`,
		"upstream a\nmax_idle never":                                `Testfile:3`,
		"upstream":                                                  "at Testfile:2",
		"upstream a b":                                              "at Testfile:2",
		"upstream a\nupstream a":                                    "upstream a is given twice, at Testfile:3",
		"upstream a:1\nupstream a_1":                                "names that begin with a_1 are those of upstream a:1 already, at Testfile:3",
		"upstream https://ghcr.io":                                  "is not a port, at Testfile:2",
		"upstream Docker.io":                                        "lower case, with its port if need be, at Testfile:2",
		"upstream {env.X}":                                          "must be a host's name",
		"default b\nupstream a":                                     "default b: there is no such upstream, at Testfile:2",
		"upstream a\ndefault":                                       "at Testfile:3",
		"upstream a\ndefault a b":                                   "at Testfile:3",
		"upstream a\ndefault a\ndefault a":                          "default is given twice, at Testfile:4",
		"upstream a\nprivate":                                       "at Testfile:3",
		"upstream a\nprivate b [":                                   `bad glob "[": brackets or braces are not closed, at Testfile:3`,
		"upstream a\nprivate {env.X}/*":                             "globs have no placeholders, at Testfile:3",
		"local_hosts b a\nupstream a":                               "local host a: it is upstream a, and cannot be this registry too, at Testfile:2",
		"upstream a\nlocal_hosts":                                   "at Testfile:3",
		"upstream a\nlocal_hosts http://b":                          "must be a host's name, with its port if need be, at Testfile:3",
		"upstream a\nmin_free 5":                                    `"5" is neither a percentage nor a size such as 20GiB, at Testfile:3`,
		"upstream a\nmin_free 100%":                                 "must be from 0% to below 100%, at Testfile:3",
		"upstream a\nmin_free little":                               "neither a percentage nor a size such as 20GiB, at Testfile:3",
		"upstream a\nmin_free":                                      "at Testfile:3",
		"upstream a\nprefetch":                                      "at Testfile:3",
		"upstream a\nprefetch yes":                                  `must be on or off, not "yes", at Testfile:3`,
		"upstream a {\ncolour red\n}":                               `unrecognized option "colour", at Testfile:3`,
		"upstream a {\nurl\n}":                                      "at Testfile:3",
		"upstream a {\nurl b.example\n}":                            "it must begin with http:// or https://, at Testfile:3",
		"upstream a {\nurl ftp://b\n}":                              "it must begin with http:// or https://, at Testfile:3",
		"upstream a {\nurl https://:1\n}":                           "it must have a host, at Testfile:3",
		"upstream a {\nurl https://u:p@b\n}":                        "it must have no user or password, which are options of their own, at Testfile:3",
		"upstream a {\nurl https://b?x=y\n}":                        "it must have no query and no fragment, at Testfile:3",
		"upstream a {\nurl https://b/#\n}":                          "it must have no query and no fragment, at Testfile:3",
		"upstream a {\nurl https://%zz\n}":                          "it cannot be read as a URL, at Testfile:3",
		"upstream a {\nallow **\ncredentials b\n}":                  "at Testfile:4",
		"upstream a {\nallow **\ncredentials b \"\"\n}":             "both the user and the password are needed, at Testfile:4",
		"upstream a {\n\ncredentials b c\nurl https://d\n}":         "allow must be given where credentials are, as ** if all is meant: who may read here reads what they open, at Testfile:4",
		"upstream a {\ndocker_config\n}":                            "allow must be given where credentials are",
		"upstream a {\nallow **\ncredentials b c\ndocker_config\n}": "credentials and docker_config cannot both be given, at Testfile:5",
		"upstream a {\nallow **\ndocker_config b c\n}":              "at Testfile:4",
		"upstream a {\nallow **\nallow b\n}":                        "allow is given twice, at Testfile:4",
		"upstream a {\nallow\n}":                                    "at Testfile:3",
		"upstream a {\nallow b:*\n}":                                `bad glob "b:*"`,
		"upstream a {\ndeny /b\n}":                                  `bad glob "/b"`,
		"upstream a {\nfresh\n}":                                    "at Testfile:3",
		"upstream a {\nfresh soon\n}":                               `invalid duration "soon"`,
		"upstream a {\nfresh v*\n}":                                 `invalid duration "v*"`,
		"upstream a {\nfresh 0s\n}":                                 "duration 0s must be positive, at Testfile:3",
		"upstream a {\nfresh 1m\nfresh v* 2m\nfresh 3m\n}":          "fresh without tags is given twice, at Testfile:5",
		"upstream a {\nfresh [ 1m\n}":                               `bad glob "["`,
		"upstream a {\nstale_if_error -1h\n}":                       "must be positive, at Testfile:3",
		"upstream a {\nstale_if_error never\n}":                     `invalid duration "never"`,
		"upstream a {\nnot_found_ttl forever\n}":                    `invalid duration "forever"`,
		"upstream a {\nnot_found_ttl 1s 2s\n}":                      "at Testfile:3",
		"upstream a {\nca_file\n}":                                  "at Testfile:3",
		"upstream a {\nca_file /a {\nb\n}\n}":                       "Testfile:3",
		"upstream a\nprefetch on {\nb\n}":                           "Testfile:3",
	} {
		_, err := parseCacheOptions("registry_cache {\n" + options + "\n}")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", options, err, want)
		}
	}
	if _, err := parseCacheOptions("registry_cache here {\nupstream a\n}"); err == nil {
		t.Error("an argument that nothing reads")
	}
}

func TestWrongCacheJSONIsRefusedWithItsOption(t *testing.T) {
	t.Setenv("TEST_EMPTY", "")
	for config, want := range map[string]string{
		`{}`:                          "at least one upstream is needed",
		`{"upstreams":[{"name":""}]}`: "must be a host's name",
		`{"upstreams":[{"name":"a"},{"name":"a"}]}`:                                                        "upstream a is given twice",
		`{"upstreams":[{"name":"a"}],"default":"b"}`:                                                       "default b: there is no such upstream",
		`{"upstreams":[{"name":"a"}],"private":["["]}`:                                                     `private: bad glob "["`,
		`{"upstreams":[{"name":"a"}],"local_hosts":["{env.TEST_EMPTY}"]}`:                                  "local_hosts: ",
		`{"upstreams":[{"name":"a"}],"local_hosts":["a"]}`:                                                 "local host a: it is upstream a",
		`{"upstreams":[{"name":"a"}],"min_free":"{env.TEST_EMPTY}"}`:                                       "min_free: ",
		`{"upstreams":[{"name":"a"}],"min_free":"-5%"}`:                                                    "min_free: ",
		`{"upstreams":[{"name":"a","username":"{env.TEST_EMPTY}","password":"b","allow":["**"]}]}`:         "upstream a: credentials: ",
		`{"upstreams":[{"name":"docker.io","username":"b","password":"{env.TEST_EMPTY}","allow":["**"]}]}`: "upstream docker.io: credentials: ",
		`{"upstreams":[{"name":"a","username":"b","password":"{file./no/such/secret}","allow":["**"]}]}`:   "upstream a: credentials: ",
		`{"upstreams":[{"name":"a","password":"b","allow":["**"]}]}`:                                       "both the user and the password are needed",
		`{"upstreams":[{"name":"a","username":"b","password":"c"}]}`:                                       "upstream a: allow must be given",
		`{"upstreams":[{"name":"a","docker_config":"/b"}]}`:                                                "upstream a: allow must be given",
		`{"upstreams":[{"name":"a","docker_config":"/b","username":"b","password":"c","allow":["**"]}]}`:   "cannot both be given",
		`{"upstreams":[{"name":"a","docker_config":"{env.TEST_EMPTY}","allow":["**"]}]}`:                   "upstream a: docker_config: ",
		`{"upstreams":[{"name":"a","ca_file":"{env.TEST_EMPTY}/a"}]}`:                                      "upstream a: ca_file: ",
		`{"upstreams":[{"name":"a","urls":["{env.TEST_EMPTY}"]}]}`:                                         "upstream a: url {env.TEST_EMPTY}: ",
		`{"upstreams":[{"name":"a","urls":["b"]}]}`:                                                        "upstream a: url b: it must begin with http",
		`{"upstreams":[{"name":"a","fresh":[{"for":"1m"},{"for":"2m"}]}]}`:                                 "upstream a: fresh: fresh without tags is given twice",
		`{"upstreams":[{"name":"a","fresh":[{"tags":["v*"]}]}]}`:                                           "upstream a: fresh: ",
		`{"upstreams":[{"name":"a","fresh":[{"tags":["["],"for":"1m"}]}]}`:                                 "upstream a: fresh: bad glob",
		`{"upstreams":[{"name":"a","stale_if_error":"{env.TEST_EMPTY}"}]}`:                                 "upstream a: stale_if_error: ",
		`{"upstreams":[{"name":"a","not_found_ttl":"forever"}]}`:                                           "upstream a: not_found_ttl: ",
		`{"upstreams":[{"name":"a","allow":["a b"]}]}`:                                                     "upstream a: allow: bad glob",
		`{"upstreams":[{"name":"a","deny":[""]}]}`:                                                         "upstream a: deny: bad glob",
	} {
		var c Cache
		if err := caddy.StrictUnmarshalJSON([]byte(config), &c); err != nil {
			t.Fatal(err)
		}
		if _, err := c.resolve(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", config, err, want)
		}
	}
}

func TestMinFree(t *testing.T) {
	for text, want := range map[MinFree]uint64{
		"5%": 5 << 30, "0.5%": 1 << 29, "0%": 0, "0": 0, "20GiB": 20 << 30, "1.5 GB": 1_500_000_000, "10g": 10_000_000_000,
	} {
		got, err := text.parse()
		if err != nil || got.of(100<<30) != want {
			t.Errorf("%s: %d, %v, want %d", text, got.of(100<<30), err, want)
		}
	}
	for _, text := range []MinFree{"", "%", "5", "1,000", "-1%", "-1GiB", "100%", "NaN%", "Inf%", "GiB", "1GiB!", "9EiB", "5%%", "\u0665%"} {
		if got, err := text.parse(); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if got := (freeSpace{percent: 99.9}).of(math.MaxUint64); got < math.MaxUint64/2 {
		t.Errorf("of the largest disk: %d", got)
	}
}
