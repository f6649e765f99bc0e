#!/usr/bin/env bash
# Installs the real clients and servers that the e2e tests start, on Debian, as root.
# Debian's own come by apt; the others are built from their Go modules, or installed from
# npm, at pinned versions into $E2E_TOOLS (default: ~/.cache/caddy-registry-e2e), where a
# later run finds them again. Safe to run twice. "setup.sh light" leaves out what takes minutes
# to build (helm, cosign, buildkit); "setup.sh heavy" builds only those.
set -euo pipefail

what=${1:-all}
tools=${E2E_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/caddy-registry-e2e}
bin=$tools/bin
mkdir -p "$bin"
export GOBIN=$bin CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -ldflags=-s"

# install NAME VERSION PACKAGE: the stamp file tells a cached build of another version.
install() {
	local name=$1 version=$2 package=$3
	if [ -x "$bin/$name" ] && [ "$(cat "$bin/.$name.version" 2>/dev/null)" = "$version" ]; then
		return
	fi
	echo "setup: building $name $version"
	go install "$package@$version"
	echo "$version" >"$bin/.$name.version"
}

# install_buildkit VERSION: buildkit's go.mod has exclude directives, with which
# "go install" refuses to build; a module that requires it does not.
install_buildkit() {
	local version=$1
	if [ -x "$bin/buildkitd" ] && [ "$(cat "$bin/.buildkitd.version" 2>/dev/null)" = "$version" ]; then
		return
	fi
	echo "setup: building buildkit $version"
	local dir
	dir=$(mktemp -d)
	(
		cd "$dir"
		go mod init buildkit.e2e
		go get "github.com/moby/buildkit/cmd/buildkitd@$version" "github.com/moby/buildkit/cmd/buildctl@$version"
		go install github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl
	) 2>&1 | sed 's/^/buildkit: /'
	rm -rf "$dir"
	echo "$version" >"$bin/.buildkitd.version"
}

# install_debian PACKAGE…: only what is missing, so that a second run needs no network.
install_debian() {
	local missing=()
	for package; do
		dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
	done
	[ ${#missing[@]} -eq 0 ] && return
	echo "setup: apt-get install ${missing[*]}"
	apt-get update -qq
	# Services that a package would start are not wanted: the tests start their own.
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# install_idp VERSION NODE: the identity provider needs a newer Node than Debian 12 has. npm
# has that too, as a package of nothing but its binary, so that no script has to be run.
install_idp() {
	local version=$1 node=$2 dir=$tools/idp architecture=x64
	if [ "$(cat "$dir/.version" 2>/dev/null)" = "$version $node" ]; then
		return
	fi
	echo "setup: installing oidc-provider $version"
	command -v npm >/dev/null || install_debian npm
	[ "$(uname -m)" != aarch64 ] || architecture=arm64
	rm -rf "$dir"
	mkdir -p "$dir"
	npm install --prefix "$dir" --ignore-scripts --no-save --no-package-lock --no-audit --no-fund --loglevel=error \
		"oidc-provider@$version" "node-linux-$architecture@$node"
	ln -s "node_modules/node-linux-$architecture/bin/node" "$dir/node"
	"$dir/node" --version
	echo "$version $node" >"$dir/.version"
}

if [ "$what" != heavy ]; then
	install_debian ca-certificates containerd runc docker.io skopeo podman buildah crun \
		uidmap iptables fuse-overlayfs wrk nginx-light strace procps curl jq chromium fonts-dejavu-core \
		prometheus libplist-utils systemd postgresql
	install crane v0.22.1 github.com/google/go-containerregistry/cmd/crane
	install regctl v0.11.7 github.com/regclient/regclient/cmd/regctl
	install oras v1.3.6 oras.land/oras/cmd/oras
	for name in containerd ctr containerd-shim-runc-v2; do
		# Debian's containerd 1.6 has the same names, so these live in a folder of their own.
		GOBIN=$bin/containerd2
		mkdir -p "$GOBIN"
		if [ "$(cat "$GOBIN/.$name.version" 2>/dev/null)" != v2.4.2 ]; then
			echo "setup: building $name v2.4.2"
			go install "github.com/containerd/containerd/v2/cmd/$name@v2.4.2"
			echo v2.4.2 >"$GOBIN/.$name.version"
		fi
		GOBIN=$bin
	done
	install versitygw v1.8.0 github.com/versity/versitygw/cmd/versitygw
	install registry v3.1.2 github.com/distribution/distribution/v3/cmd/registry
	install_idp 9.13.3 22.23.3
fi
if [ "$what" != light ]; then
	install_buildkit v0.34.2
	install cosign v3.1.3 github.com/sigstore/cosign/v3/cmd/cosign
	install helm v4.3.1 helm.sh/helm/v4/cmd/helm
fi
echo "setup: tools in $bin"
