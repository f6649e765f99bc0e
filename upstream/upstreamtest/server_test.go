package upstreamtest_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestDownRefusesConnectionsUntilUp(t *testing.T) {
	upstream := upstreamtest.Start(t)
	upstream.AddImage("a", "1")
	for range 3 {
		upstream.Down()
		if _, err := try(t, "GET", upstream.URL()+"/v2/"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("down: %v", err)
		}
		upstream.Up()
		if r := ask(t, "GET", upstream.URL()+"/v2/a/manifests/1"); r.StatusCode != 200 {
			t.Errorf("up: %s", r.Status)
		}
	}
}

func TestBlackHoleAnswersNothingUntilUp(t *testing.T) {
	upstream := upstreamtest.Start(t)
	upstream.BlackHole()
	ended := make(chan error)
	go func() {
		_, err := try(t, "GET", upstream.URL()+"/v2/")
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("it answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	upstream.Up()
	if err := <-ended; err == nil {
		t.Error("the connection was not cut")
	}
	want(t, ask(t, "GET", upstream.URL()+"/v2/"), 200, []byte("{}"))
	if requests := upstream.Requests(); len(requests) != 2 || requests[0].Status != 0 || requests[1].Status != 200 {
		t.Errorf("the log has %+v", requests)
	}
}

func TestRedirectedBlobTellsWhetherCredentialsCameAlong(t *testing.T) {
	upstream := upstreamtest.Start(t)
	blob := upstream.AddBlob("a/b", []byte("0123456789"))
	upstream.RedirectBlobs()
	url := upstream.URL() + "/v2/a/b/blobs/" + blob.Digest.String()
	want(t, ask(t, "HEAD", url), 200, nil)
	r := ask(t, "GET", url)
	location := r.Header.Get("Location")
	if r.StatusCode != 307 || !strings.HasPrefix(location, "http://localhost:") {
		t.Fatalf("got %s to %s", r.Status, location)
	}
	want(t, ask(t, "GET", location, "Range", "bytes=2-3"), 206, []byte("23"))
	if r := ask(t, "GET", location, "Authorization", "Bearer leaked"); r.StatusCode != 400 {
		t.Errorf("with credentials: %s", r.Status)
	}
	if r := ask(t, "GET", strings.TrimSuffix(location, "valid")); r.StatusCode != 403 {
		t.Errorf("without a signature: %s", r.Status)
	}
	// What net/http follows by itself has left its credentials behind.
	req := request(t, t.Context(), url)
	req.Header.Set("Authorization", "Bearer kept")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("a redirect that was followed: %s", resp.Status)
	}
	requests := upstream.Requests()
	if n := len(requests.CDN()); n != 4 {
		t.Errorf("the CDN has %d requests", n)
	}
	if leaks := requests.CDN().Mentioning("leaked"); len(leaks) != 1 || leaks[0].Authorization() != "Bearer" {
		t.Errorf("leaks are %v", leaks)
	}
	upstream.Reset()
	if upstream.BytesSent() != 0 {
		t.Error("the log was not forgotten")
	}
}

func TestCertificateIsItsOwnAuthority(t *testing.T) {
	upstream := upstreamtest.StartTLS(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(upstream.CertificatePEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(request(t, t.Context(), upstream.URL()+"/v2/"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if _, err := try(t, "GET", upstream.URL()+"/v2/"); err == nil {
		t.Error("a client trusts it that was not told to")
	}
}
