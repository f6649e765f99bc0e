package upstream

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
