package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// challenge asks for a token of realm.
func challenge(w http.ResponseWriter, realm string) {
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry",scope="repository:a:pull"`, realm))
	w.WriteHeader(http.StatusUnauthorized)
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
