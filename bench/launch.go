package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// caddyConfig has the directives of the Caddyfile at the root of the module. The log
// goes to a file that is not rolled, since compressing what is rolled would be measured
// too. Its policy lets everybody do everything, so that what access control costs is in all
// figures, and clients need no key. The second site answers the same manifest from its configuration, and logs and
// counts as the first does. CACHE is empty unless what is measured is a cache, as is GLOBAL
// unless options of the app are needed.
const caddyConfig = `{
	admin ADMIN
	metrics
GLOBAL}

http://:PORT {
	bind 127.0.0.1
	log {
		output file access.log {
			roll_disabled
		}
	}
	metrics /metrics
	registry_auth {
		policy ** {
			anonymous read create update delete
		}
	}
CACHE	registry
}

http://:RESPOND {
	bind 127.0.0.1
	log {
		output file respond.log {
			roll_disabled
		}
	}
	header Content-Type MEDIATYPE
	respond ` + "`MANIFEST`" + `
}
`

// cacheConfig caches an upstream under a name of its own.
const cacheConfig = `	registry_cache {
		upstream docker.io {
			url http://UPSTREAM
		}
	}
`

// bareCaddyConfig is Caddy without a registry.
const bareCaddyConfig = `{
	admin ADMIN
	metrics
}

http://:PORT {
	bind 127.0.0.1
	log {
		output file access.log {
			roll_disabled
		}
	}
	metrics /metrics
	respond OK
}
`

func launchCaddy(b *bench, p *peer) (*exec.Cmd, error) {
	var err error
	for _, address := range []*string{&p.address, &p.respond, &p.admin} {
		if *address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	config := caddyConfig
	if p.name == bareCaddy {
		config = bareCaddyConfig
	}
	cache := ""
	if b.upstream != "" {
		cache = strings.ReplaceAll(cacheConfig, "UPSTREAM", b.upstream)
		p.prefix = "docker.io/"
	}
	if b.seed != nil {
		if err := b.seed(filepath.Join(p.dir, "data", "caddy", "registry")); err != nil {
			return nil, err
		}
	}
	config = strings.NewReplacer(
		"GLOBAL", b.global, "CACHE", cache, "ADMIN", p.admin, "PORT", portOf(p.address), "RESPOND", portOf(p.respond),
		"MEDIATYPE", manifestType, "MANIFEST", string(pulledImage().manifest),
	).Replace(config)
	if err := os.WriteFile(filepath.Join(p.dir, "Caddyfile"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	return caddyCommand(b, p, "run")
}

// caddyCommand runs the registry's program in the folder of a peer.
func caddyCommand(b *bench, p *peer, args ...string) (*exec.Cmd, error) {
	server := b.server
	if p.name == baseline {
		server = b.base
	}
	server, err := filepath.Abs(server)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(server, args...)
	// Its data directory is where the registry's storage is by default.
	cmd.Env = environ("XDG_DATA_HOME="+filepath.Join(p.dir, "data"), "XDG_CONFIG_HOME="+filepath.Join(p.dir, "config"))
	cmd.Dir = p.dir
	return cmd, nil
}

// makeKey makes an API key of a registry.
func (b *bench) makeKey(p *peer) (string, error) {
	cmd, err := caddyCommand(b, p, "registry", "apikey", "create", "--user", "bench", "--group", "admins")
	if err != nil {
		return "", err
	}
	key, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("making an API key: %w", err)
	}
	return strings.TrimSpace(string(key)), nil
}

// distributionConfig is the one that it ships with, without a password and with the
// address of this peer, and a folder beside it. Its access log goes to its output.
const distributionConfig = `version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: data
  tag:
    concurrencylimit: 8
http:
  addr: ADDRESS
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
`

// distributionProxy makes it a cache, which takes no pushes then.
const distributionProxy = `proxy:
  remoteurl: http://UPSTREAM
`

func launchDistribution(b *bench, p *peer) (*exec.Cmd, error) {
	path, err := findTool("registry")
	if err != nil {
		return nil, err
	}
	if p.address, err = freeAddress(); err != nil {
		return nil, err
	}
	file := filepath.Join(p.dir, "config.yml")
	config := strings.ReplaceAll(distributionConfig, "ADDRESS", p.address)
	if b.upstream != "" {
		config += strings.ReplaceAll(distributionProxy, "UPSTREAM", b.upstream)
	}
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "serve", file)
	// It would send traces to a collector that is not there.
	cmd.Env = environ("OTEL_TRACES_EXPORTER=none")
	return cmd, nil
}

// nginxConfig serves the files of a folder. USER is there for root, whose workers would
// else run as somebody who may not read that folder.
const nginxConfig = `daemon off;
USER
worker_processes 2;
pid pid;
error_log stderr;
events { worker_connections 256; }
http {
	sendfile on;
	tcp_nopush on;
	access_log access.log;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	server {
		listen ADDRESS;
		root files;
	}
}
`

func launchNginx(_ *bench, p *peer) (*exec.Cmd, error) {
	path, err := findTool("nginx")
	if err != nil {
		return nil, err
	}
	if p.address, err = freeAddress(); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(p.dir, "files"), 0o755); err != nil {
		return nil, err
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	file := filepath.Join(p.dir, "nginx.conf")
	config := strings.NewReplacer("USER", user, "ADDRESS", p.address).Replace(nginxConfig)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "-p", p.dir, "-c", file, "-e", "stderr")
	cmd.Env = environ()
	return cmd, nil
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address) // it came from net.Listen
	return port
}
