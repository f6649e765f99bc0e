// Package conformancetest runs the OCI conformance suite against a registry, with every
// optional API and every kind of data switched on: nothing may fail, be skipped or disabled.
package conformancetest

import (
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Build builds the suite, at the version that go.mod pins, and returns where it is.
func Build(t *testing.T) string {
	t.Helper()
	suite := filepath.Join(t.TempDir(), "conformance")
	if runtime.GOOS == "windows" {
		suite += ".exe"
	}
	build := exec.Command("go", "build", "-o", suite, "github.com/opencontainers/distribution-spec/conformance")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the suite: %v\n%s", err, out)
	}
	return suite
}

// Run runs a suite that Build made against the registry at a host, and fails the test for
// all that did not pass. settings are environment variables of the suite's.
func Run(t *testing.T, suite, host string, settings ...string) {
	t.Helper()
	results := t.TempDir()
	cmd := exec.Command(suite)
	cmd.Dir = results
	cmd.Env = append(append(os.Environ(),
		"OCI_REGISTRY="+host,
		"OCI_TLS=disabled",
		"OCI_RESULTS_DIR="+results,
		"OCI_DATA_SPARSE=true",
		"OCI_API_BLOBS_DIGEST_HEADER=true",
		"OCI_API_BLOBS_UPLOAD_CANCEL=true",
		"OCI_API_MANIFESTS_DIGEST_HEADER=true",
		"OCI_API_MANIFESTS_TAG_PARAM=true",
	), settings...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	checkCounts(t, string(out))
	checkJUnit(t, filepath.Join(results, "junit.xml"))
}

// checkCounts reads the suite's summary: it passes with tests that it skipped, which is
// not good enough here.
func checkCounts(t *testing.T, out string) {
	t.Helper()
	_, summary, ok := strings.Cut(out, "OCI Conformance Result: ")
	if !ok {
		t.Fatalf("no result in\n%s", out)
	}
	counts := make(map[string]int)
	for line := range strings.Lines(summary) {
		name, number, ok := strings.Cut(strings.TrimSpace(line), ": ")
		name = strings.TrimRight(name, ".")
		var n int
		if _, err := fmt.Sscan(number, &n); ok && err == nil {
			counts[name] = n
		}
		if name == "Total" {
			break
		}
	}
	if counts["Pass"] == 0 || counts["Pass"] != counts["Total"] {
		t.Errorf("not all of it passed: %v", counts)
	}
	for _, name := range []string{"FAIL", "Skip", "Disabled", "Error"} {
		if n, ok := counts[name]; !ok || n != 0 {
			t.Errorf("%s: %d (told: %v), want 0", name, n, ok)
		}
	}
	t.Logf("%v", counts)
	// Whole kinds of data, or APIs, are told below, by name.
	for line := range strings.Lines(summary) {
		if value := strings.TrimSpace(line[strings.LastIndex(line, ":")+1:]); value == "Disabled" || value == "Skip" || value == "FAIL" {
			t.Error(strings.TrimSpace(line))
		}
	}
}

// checkJUnit reads the suite's other report, which counts by itself.
func checkJUnit(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Skipped  int `xml:"skipped,attr"`
		Disabled int `xml:"disabled,attr"`
	}
	if err := xml.Unmarshal(content, &report); err != nil {
		t.Fatal(err)
	}
	if report.Tests == 0 || report.Failures+report.Errors+report.Skipped+report.Disabled != 0 {
		t.Errorf("%+v", report)
	}
}
