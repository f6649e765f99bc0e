package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPercentileLiesBetweenValues(t *testing.T) {
	for _, test := range []struct {
		values []float64
		p      float64
		want   float64
	}{
		{nil, 50, 0},
		{[]float64{7}, 99, 7},
		{[]float64{3, 1, 2}, 50, 2},
		{[]float64{4, 1, 3, 2}, 50, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 100, 5},
		{[]float64{5, 4, 3, 2, 1}, 0, 1},
	} {
		if got := percentile(test.values, test.p); got != test.want {
			t.Errorf("percentile(%v, %v) = %v, want %v", test.values, test.p, got, test.want)
		}
	}
}

func TestRatioIsOfPairsInOneRound(t *testing.T) {
	// The machine was half as fast in the second round, for both.
	ratio, low, high := compare(map[int]float64{0: 100, 1: 50, 2: 120}, map[int]float64{0: 50, 1: 25, 2: 40, 3: 1})
	if ratio != 2 || low != 2 || high != 3 {
		t.Errorf("got %v (%v to %v), want 2 (2 to 3)", ratio, low, high)
	}
	if ratio, _, _ := compare(map[int]float64{0: 1}, map[int]float64{1: 1}); ratio != 0 {
		t.Errorf("got %v of no pair", ratio)
	}
}

func TestStatOfCommandWithParentheses(t *testing.T) {
	got, err := parseStat("4242 (a) b (c)) S 17 4242 4242 0 -1 4194560 8061 0 0 0 150 25 9 9 20 0 8 0 123 1 2\n")
	if want := (procStat{parent: 17, cpu: 1750 * time.Millisecond}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, line := range []string{"", "1 sh S 0", "1 (sh) S 0 1 2"} {
		if _, err := parseStat(line); err == nil {
			t.Errorf("%q is no error", line)
		}
	}
}

func TestStatusFieldIsInBytes(t *testing.T) {
	const status = "Name:\tcaddy\nVmPeak:\t  9999 kB\nVmHWM:\t   2048 kB\nThreads:\t8\n"
	if got, err := parseStatus(status, "VmHWM"); err != nil || got != 2<<20 {
		t.Errorf("got %d, %v", got, err)
	}
	for _, field := range []string{"Vm", "VmRSS", "Threads"} {
		if _, err := parseStatus(status, field); err == nil {
			t.Errorf("%s is no error", field)
		}
	}
}

func TestOwnProcessHasMemory(t *testing.T) {
	if _, err := statOf(os.Getpid()); err != nil {
		t.Skipf("processes are measured on Linux only: %v", err)
	}
	if n, err := memoryOf(os.Getpid(), "VmRSS"); err != nil || n < 1<<20 {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := cpuOf(os.Getpid()); err != nil {
		t.Error(err)
	}
}

func TestWrkWithFailedRequestsIsAnError(t *testing.T) {
	const good = "Running 1s test @ http://127.0.0.1:5050/\n  1 threads and 32 connections\nRequests/sec:  31234.50\nTransfer/sec:     25.25MB\n"
	if got, err := parseWrk(good); err != nil || got != 31234.5 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{
		"",
		good + "  Non-2xx or 3xx responses: 3\n",
		good + "  Socket errors: connect 0, read 1, write 0, timeout 0\n",
	} {
		if _, err := parseWrk(bad); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

func TestUploadKeepsItsQuery(t *testing.T) {
	for location, want := range map[string]string{
		"/v2/a/blobs/uploads/1":                        "/v2/a/blobs/uploads/1?digest=sha256:x",
		"http://127.0.0.1:5000/v2/a/b?_state=a%2Bb%3D": "/v2/a/b?_state=a%2Bb%3D&digest=sha256:x",
	} {
		if got, err := withDigest(location, "sha256:x"); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", location, got, err, want)
		}
	}
	if _, err := withDigest("", "sha256:x"); err == nil {
		t.Error("no Location is no error")
	}
}

func TestBigBlobsDifferAndHaveTheirDigest(t *testing.T) {
	s, err := newSource(t.TempDir(), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if s.blob(1).digest == s.blob(2).digest {
		t.Error("two blobs have one digest")
	}
	pushed := make(chan []byte, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Location", "/upload?state=1")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		body, _ := io.ReadAll(r.Body)
		pushed <- body
		w.WriteHeader(http.StatusCreated)
	}))
	defer server.Close()
	blob := s.blob(3)
	err = withClient(t.Context(), server.Listener.Addr().String(), func(c *client) error { return blob.push(c, "a") })
	if err != nil {
		t.Fatal(err)
	}
	body := <-pushed
	sum := sha256.Sum256(body)
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != blob.digest || len(body) != 10_000 {
		t.Errorf("%d bytes with digest %s arrived, want 10000 with %s", len(body), got, blob.digest)
	}
}

func TestLoadCountsAnswers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/there" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, strings.Repeat("x", 600))
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	rate, err := loop(t.Context(), target{address: address, path: "/there"}, 4, 50*time.Millisecond)
	if err != nil || rate < 4 {
		t.Errorf("got %v, %v", rate, err)
	}
	if _, err := loop(t.Context(), target{address: address, path: "/not-there"}, 1, 50*time.Millisecond); err == nil {
		t.Error("404 is no error")
	}
}

func TestGetReadsTheWholeBody(t *testing.T) {
	const size = 3*discardSize + 17
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Write(make([]byte, size))
	}))
	defer server.Close()
	err := withClient(t.Context(), server.Listener.Addr().String(), func(c *client) error {
		for range 2 { // the connection is at the start of the next answer
			if n, err := c.get("/"); err != nil || n != size {
				t.Errorf("got %d, %v", n, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFreeAddressCanBeListenedOn(t *testing.T) {
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if portOf(address) == "" {
		t.Errorf("%s has no port", address)
	}
}

func TestOnlyNamesWhatThereIs(t *testing.T) {
	chosen, err := choose("tags,manifests")
	if err != nil || len(chosen) != 2 || chosen[0].name != "manifests" {
		t.Errorf("got %v, %v", chosen, err)
	}
	if _, err := choose("tag"); err == nil {
		t.Error("an unknown name is no error")
	}
}
