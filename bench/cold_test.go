package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestColdPullsAreCheckedAndCounted(t *testing.T) {
	registry := upstreamtest.Start(t)
	server := httptest.NewServer(controlHandler(registry))
	defer server.Close()
	control := upstreamControl{strings.TrimPrefix(server.URL, "http://")}
	size, err := control.addImage(t.Context(), "cold/a", 4, 300_000)
	if err != nil || size < 1_200_000 {
		t.Fatalf("the image has %d bytes, %v", size, err)
	}
	if _, err := pullAtOnce(t.Context(), 3, registry.Host(), "cold/a"); err != nil {
		t.Fatal(err)
	}
	if sent, err := control.sent(t.Context(), "cold/a"); err != nil || sent != 3*size {
		t.Errorf("%d bytes were sent of 3 × %d, %v", sent, size, err)
	}
	if latencies, err := pullFirstBytes(t.Context(), registry.Host(), "cold/a"); err != nil || len(latencies) != 4 {
		t.Errorf("got %v, %v", latencies, err)
	}

	undo := registry.Fault(upstreamtest.Match{Path: "/blobs/"}, upstreamtest.FlipByte(10))
	if _, err := pullAtOnce(t.Context(), 1, registry.Host(), "cold/a"); err == nil {
		t.Error("wrong bytes are no error")
	}
	undo()
	if err := control.deleteImage(t.Context(), "cold/a"); err != nil {
		t.Fatal(err)
	}
	if _, err := pullAtOnce(t.Context(), 1, registry.Host(), "cold/a"); err == nil {
		t.Error("what was removed was pulled")
	}
	if _, err := control.do(t.Context(), "POST", "/images", nil); err == nil {
		t.Error("an image without layers and size is no error")
	}
}
