# What stands around the commands of a file of the documentation, so that they can be run as
# they are written, one after the other, in a folder like the checkout's.
set -eu -o pipefail
: >pids
trap 'kill $(cat pids) 2>/dev/null || true; wait' EXIT

# serve starts a server and returns when that answers. A node of a cluster says where it is.
serve() {
	"$CADDY" run "$@" >>server.log 2>&1 &
	echo $! >>pids
	for _ in $(seq 600); do
		if curl -fsSk -o /dev/null "http://${NODE_ADDRESS:-localhost:5050}/livez" 2>/dev/null || curl -fsSk -o /dev/null https://registry.example.com/livez 2>/dev/null; then
			root="$HOME/.local/share/caddy/pki/authorities/local/root.crt"
			if [ -f "$root" ]; then cat "$root" >>"$AUTHORITIES"; fi
			return
		fi
		sleep 0.1
	done
	cat server.log >&2
	return 1
}

caddy() {
	case "$*" in
	"run "* | run) shift; serve "$@" ;;
	# It exits with 1 if the answer is no, which is an answer.
	"registry can "*)
		answer=$("$CADDY" "$@") || true
		echo "$answer"
		[[ $answer == *" may "* ]]
		;;
	# What is restored goes to where nothing is yet.
	"registry restore "*) "$CADDY" "$@" --config empty/Caddyfile ;;
	*) "$CADDY" "$@" ;;
	esac
}

go() {
	case "$*" in
	"run ./cmd/caddy "*) shift 2; caddy "$@" ;;
	# These are checks of their own.
	"tool xcaddy "* | "test "*) ;;
	*) echo "go $*: nobody tests that" >&2; return 1 ;;
	esac
}

git() { :; }
cd() { :; }

# docker asks people for a password, who paste the key.
docker() {
	case "$*" in
	*--password-stdin* | pull*) command docker "$@" ;;
	login*) printf %s "$API_KEY" | command docker "$@" --password-stdin ;;
	*) command docker "$@" ;;
	esac
}

prometheus() {
	command prometheus "$@" --storage.tsdb.path=prometheus >>prometheus.log 2>&1 &
	echo $! >>pids
}
