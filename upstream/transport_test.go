package upstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// challenge asks for a token of realm.
func challenge(w http.ResponseWriter, realm string) {
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry",scope="repository:a:pull"`, realm))
	w.WriteHeader(http.StatusUnauthorized)
}

func serveTLS(t *testing.T, h http.HandlerFunc) (url, caFile string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.URL, caFile
}

func TestTokensAreFetchedOnceAndAgainWhenTheyExpire(t *testing.T) {
	var issued, valid atomic.Int32
	tokens, asked := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"token":"t%d"}`, issued.Add(1))
		valid.Store(issued.Load())
	})
	url, log := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", valid.Load()) {
			challenge(w, tokens+"/token")
			return
		}
		answerImage()(w, r)
	})
	c := clientOf(t, Config{Username: "me", Password: "secret"}, url)
	pull := func(wantRequests, wantTokens int) {
		t.Helper()
		if _, err := c.Manifest(t.Context(), "a", byTag("v1")); err != nil {
			t.Fatal(err)
		}
		if log.count() != wantRequests || asked.count() != wantTokens {
			t.Errorf("%d requests and %d for a token, want %d and %d", log.count(), asked.count(), wantRequests, wantTokens)
		}
	}
	pull(2, 1)
	pull(3, 1)
	valid.Store(0)
	pull(5, 2)
	r := asked.all()[0]
	if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" || r.FormValue("scope") != "repository:a:pull" || r.FormValue("service") != "registry" {
		t.Errorf("the token service was asked %s with %v", r.URL, r.Header)
	}
	for _, r := range log.all() {
		if strings.HasPrefix(r.Header.Get("Authorization"), "Basic") {
			t.Error("the password went to the registry, which asked for a token")
		}
	}
}

func TestBasicAuthentication(t *testing.T) {
	url, log := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		answerImage()(w, r)
	})
	c := clientOf(t, Config{Username: "me", Password: "secret"}, url)
	for range 2 {
		if _, err := c.Manifest(t.Context(), "a", byTag("v1")); err != nil {
			t.Fatal(err)
		}
	}
	if log.count() != 3 {
		t.Errorf("%d requests, want 3", log.count())
	}
	_, err := clientOf(t, Config{Username: "me", Password: "wrong"}, url).Manifest(t.Context(), "a", byTag("v1"))
	wantKind(t, err, ErrDenied)
	_, err = clientOf(t, Config{}, url).Manifest(t.Context(), "a", byTag("v1"))
	wantKind(t, err, ErrDenied)
	if !strings.Contains(err.Error(), "no credentials are configured") {
		t.Error(err)
	}
}

func TestCredentialsOfADockerConfig(t *testing.T) {
	url, log := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	host := strings.TrimPrefix(url, "http://")
	write := func(content string) string {
		file := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	file := write(fmt.Sprintf(`{"auths":{%q:{"auth":%q},"other.test":{"auth":"eDp5"}}}`, host, base64.StdEncoding.EncodeToString([]byte("me:secret"))))
	_, err := clientOf(t, Config{DockerConfig: file}, url).Manifest(t.Context(), "a", byTag("v1"))
	wantKind(t, err, ErrDenied)
	if user, password, _ := log.all()[1].BasicAuth(); user != "me" || password != "secret" {
		t.Errorf("sent %q and %q", user, password)
	}
	_, err = clientOf(t, Config{DockerConfig: write(`{"credHelpers":{"` + host + `":"that-is-not-installed"}}`)}, url).Manifest(t.Context(), "a", byTag("v1"))
	wantKind(t, err, ErrDenied)
	if !strings.Contains(err.Error(), "docker-credential-that-is-not-installed") {
		t.Error(err)
	}
}

// Go itself keeps the header for another port of the same host.
func TestCredentialsDoNotFollowRedirects(t *testing.T) {
	storage, log := serve(t, answerWith("layer"))
	tokens, _ := serve(t, answerWith(`{"token":"t"}`))
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			challenge(w, tokens)
			return
		}
		http.Redirect(w, r, storage+"/layer?signature=secret", http.StatusTemporaryRedirect)
	})
	c := clientOf(t, Config{Username: "me", Password: "secret"}, url)
	for range 2 { // with a token at hand, too
		b, err := c.Blob(t.Context(), "a", testDigest, 0, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	for _, r := range log.all() {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" {
			t.Errorf("%s got %v", r.URL, r.Header)
		}
	}
}

func TestErrorsDoNotTellSignedURLs(t *testing.T) {
	for name, target := range map[string]string{"down": closedURL(t), "metadata": "http://169.254.169.254", "no server": "ftp://x.test"} {
		url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target+"/layer?signature=secret", http.StatusTemporaryRedirect)
		})
		_, err := clientOf(t, Config{}, url).Blob(t.Context(), "a", testDigest, 0, 0, -1)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRedirectsHaveAnEnd(t *testing.T) {
	url, log := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/again", http.StatusTemporaryRedirect)
	})
	_, err := clientOf(t, Config{}, url).Manifest(t.Context(), "a", byTag("v1"))
	wantKind(t, err, ErrInvalid)
	if log.count() != maxRedirects || !strings.Contains(err.Error(), "circle") {
		t.Errorf("%d requests: %v", log.count(), err)
	}
}

func TestTLSIsNotLeft(t *testing.T) {
	plain, log := serve(t, answerWith(`{"token":"t"}`))
	redirect, ca := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain, http.StatusTemporaryRedirect)
	})
	_, err := clientOf(t, Config{CAFile: ca}, redirect).Manifest(t.Context(), "a", byTag("v1"))
	wantKind(t, err, ErrInvalid)
	realm, ca := serveTLS(t, func(w http.ResponseWriter, r *http.Request) { challenge(w, plain) })
	_, err = clientOf(t, Config{CAFile: ca, Username: "me", Password: "secret"}, realm).Manifest(t.Context(), "a", byTag("v1"))
	wantKind(t, err, ErrInvalid)
	if log.count() != 0 {
		t.Errorf("%d requests went without TLS", log.count())
	}
}

func TestCertificatesOfTheConfigAreTrusted(t *testing.T) {
	url, ca := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			w.WriteHeader(http.StatusHTTPVersionNotSupported)
			return
		}
		answerImage()(w, r)
	})
	if _, err := clientOf(t, Config{CAFile: ca}, url).Manifest(t.Context(), "a", byTag("v1")); err != nil {
		t.Error(err)
	}
	_, err := clientOf(t, Config{}, url).Manifest(t.Context(), "a", byTag("v1"))
	wantKind(t, err, ErrUnavailable)
	if !strings.Contains(err.Error(), "ca_file") {
		t.Error(err)
	}
}

func TestAddressesOfTheMachineAndItsCloudAreNotAsked(t *testing.T) {
	for _, target := range []string{"http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://100.100.100.200", "http://192.0.0.192/", "http://[::ffff:169.254.169.254]/"} {
		for name, handler := range map[string]http.HandlerFunc{
			"redirect": func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, target, http.StatusTemporaryRedirect)
			},
			"realm": func(w http.ResponseWriter, _ *http.Request) { challenge(w, target) },
		} {
			url, _ := serve(t, handler)
			_, err := clientOf(t, Config{}, url).Manifest(t.Context(), "a", byTag("v1"))
			wantKind(t, err, ErrInvalid)
			if !strings.Contains(fmt.Sprint(err), "no upstream may lead") {
				t.Errorf("%s to %s: %v", name, target, err)
			}
		}
	}
}

func TestTheDialedAddressIsLookedAt(t *testing.T) {
	// What a name resolves to reaches the dialer's control as an address does.
	transport, err := newTransport(Config{}, addressGuard{})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"169.254.169.254:80", "[fe80::1%lo]:80", "[::ffff:169.254.0.1]:443"} {
		var refused refusedAddress
		if conn, err := transport.DialContext(t.Context(), "tcp", address); !errors.As(err, &refused) {
			t.Errorf("%s: %v, %v", address, conn, err)
		}
	}
	configured := addressGuard{[]netip.Addr{netip.MustParseAddr("169.254.1.2"), netip.MustParseAddr("fe80::1")}}
	for address, want := range map[string]bool{
		"169.254.1.2": false, "::ffff:169.254.1.2": false, "fe80::1%eth0": false, "169.254.1.3": true, "fe80::2%eth0": true,
		"64:ff9b::169.254.169.254": true, "127.0.0.1": false, "::1": false, "10.0.0.1": false, "192.168.1.1": false, "fd00::1": false, "1.1.1.1": false,
	} {
		if got := configured.refuses(netip.MustParseAddr(address)); got != want {
			t.Errorf("refuses(%s) = %v", address, got)
		}
	}
}

func TestErrorsOfTheTokenServiceKeepTheirMeaning(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"wrong password": {status(http.StatusUnauthorized), ErrDenied},
		"denied":         {status(http.StatusForbidden), ErrDenied},
		"absent":         {status(http.StatusNotFound), ErrInvalid},
		"limited":        {status(http.StatusTooManyRequests), ErrRateLimited},
		"down":           {status(http.StatusServiceUnavailable), ErrUnavailable},
		"no token":       {answerWith(`{}`), ErrInvalid},
		"no JSON":        {answerWith(`<html>`), ErrInvalid},
		"cut": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			panic(http.ErrAbortHandler)
		}, ErrUnavailable},
		"cut in the middle": {func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"token":`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, ErrUnavailable},
		"nobody": {nil, ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := closedURL(t)
			if test.handler != nil {
				tokens, _ = serve(t, test.handler)
			}
			url, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { challenge(w, tokens) })
			_, err := clientOf(t, Config{}, url).Manifest(t.Context(), "a", byTag("v1"))
			wantKind(t, err, test.want)
			if !strings.Contains(fmt.Sprint(err), strings.TrimPrefix(tokens, "http://")) {
				t.Errorf("%v does not name the token service", err)
			}
		})
	}
	url, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { challenge(w, "") })
	_, err := clientOf(t, Config{}, url).Manifest(t.Context(), "a", byTag("v1"))
	wantKind(t, err, ErrInvalid)
}

func TestSlowTokenServices(t *testing.T) {
	for name, pause := range map[string]time.Duration{"stalls": time.Hour, "drips": stallLimit / 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := memoryClient(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/token" {
						challenge(w, "http://up.test/token")
						return
					}
					for {
						io.WriteString(w, " ")
						w.(http.Flusher).Flush()
						select {
						case <-time.After(pause):
						case <-r.Context().Done():
							return
						}
					}
				})
				begun := time.Now()
				wantKind(t, pull(t, c), ErrTimeout)
				if took := time.Since(begun); took > tokenTimeout {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestATokenFetchOutlivesWhoBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c, log := memoryClient(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/token":
				<-release
				io.WriteString(w, `{"token":"t"}`)
			case r.Header.Get("Authorization") == "":
				challenge(w, "http://up.test/token")
			default:
				answerImage()(w, r)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, err := c.Manifest(ctx, "a", byTag("v1")); !errors.Is(err, context.Canceled) {
				t.Errorf("canceled: %v", err)
			}
		})
		synctest.Wait()
		for range 3 {
			wait.Go(func() {
				if _, err := c.Manifest(t.Context(), "a", byTag("v1")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wait.Wait()
		if n := log.count(); n != 4+1+3 {
			t.Errorf("%d requests, want four that are challenged, one for a token, and three with it", n)
		}
	})
}

func TestTokensAreBounded(t *testing.T) {
	c := newTokenCache()
	fetch := func(context.Context) (string, error) { return "t", nil }
	for i := range maxTokens + 10 {
		if _, err := c.Set(t.Context(), "", auth.SchemeBearer, fmt.Sprint(i), fetch); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.GetToken(t.Context(), "", auth.SchemeBearer, "0"); err == nil || c.tokens.Len() != maxTokens {
		t.Errorf("%d are kept", c.tokens.Len())
	}
}

// memoryClient returns a client of http://up.test whose connections are in memory, so
// that time stands still while requests are under way in a synctest bubble.
func memoryClient(t *testing.T, config Config, h http.HandlerFunc) (*Client, *requestLog) {
	t.Helper()
	log := new(requestLog)
	listener := &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.add(r)
		h(w, r)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	if config.dial == nil {
		config.dial = listener.dial
	}
	return clientOf(t, config, "http://up.test"), log
}

type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *memoryListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

// listOf is the body of a page of tags.
func listOf(tags ...string) string {
	b, err := json.Marshal(map[string]any{"name": "a", "tags": tags})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// indexOf is the body of a page of referrers.
func indexOf(descs ...imagespec.Descriptor) string {
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": imagespec.MediaTypeImageIndex, "manifests": append([]imagespec.Descriptor{}, descs...)})
	if err != nil {
		panic(err)
	}
	return string(b)
}
