package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// results are all figures of a run.
type results struct {
	LoadGenerator string   `json:"load_generator,omitempty"` // of the manifests
	Samples       []sample `json:"samples"`
	Notes         []string `json:"notes,omitempty"` // what is wrong with peers
}

// sample is one figure of one peer.
type sample struct {
	Measurement string  `json:"measurement"`
	Metric      string  `json:"metric"`
	Peer        string  `json:"peer"`
	Round       int     `json:"round"`
	Value       float64 `json:"value"`
}

func (r *results) add(measurement, metric, peer string, round int, value float64) {
	r.Samples = append(r.Samples, sample{measurement, metric, peer, round, value})
}

func (r *results) note(format string, args ...any) {
	note := fmt.Sprintf(format, args...)
	if !slices.Contains(r.Notes, note) {
		r.Notes = append(r.Notes, note)
	}
}

// values returns a peer's figures by round.
func (r *results) values(measurement, metric, peer string) map[int]float64 {
	values := make(map[int]float64)
	for _, s := range r.Samples {
		if s.Measurement == measurement && s.Metric == metric && s.Peer == peer {
			values[s.Round] = s.Value
		}
	}
	return values
}

// row is a line of the report, or one for each peer.
type row struct {
	measurement, metric string
	work                string
	digits              int    // after the point
	goal                string // of the registry's own figure
	peers               []versus
}

// versus is a peer that a figure is compared with; goal is that of the ratio.
type versus struct{ peer, goal string }

func rows(s settings) []row {
	perTag := fmt.Sprintf("tag push, %d clients, %d tags (peers %d)", tagClients, s.Tags, s.PeerTags)
	blobs := fmt.Sprintf("%d MB blob GET, %d clients", s.PullSize/1e6, blobClients)
	pushes := fmt.Sprintf("push %d × %d MB, %d clients", blobsPushed, s.PushSize/1e6, pushClients)
	manifests := fmt.Sprintf("manifest GET by tag, %d clients", manifestClients)
	cold := fmt.Sprintf("cold pull through, %d × %d MB", coldLayers, s.ColdSize/1e6)
	images := fmt.Sprintf("tiny images pushed, %d clients", imageClients)
	collection := fmt.Sprintf("collecting %d manifests and %d blobs", s.Garbage, s.Garbage*blobsPerManifest)
	return []row{
		{"manifests", "requests/s", manifests + ", requests/s", 0, "", []versus{{respond, "≥ 0.9"}, {withKey, "≤ 1.11"}, {distribution, ""}}},
		{"manifests", "CPU µs/request", "  server CPU, µs a request", 1, "", []versus{{respond, ""}, {withKey, ""}, {distribution, ""}}},
		{"blobs", "MB/s", blobs + ", MB/s", 0, "", []versus{{nginx, "≥ 0.9"}, {distribution, "≥ 1"}}},
		{"blobs", "CPU s/GB", "  server CPU, s a GB", 3, "", []versus{{nginx, "≤ 1.1"}, {distribution, "≤ 1.1"}}},
		{"pushes", "MB/s", pushes + ", MB/s", 0, "", []versus{{distribution, "≥ 1.3"}}},
		{"pushes", "CPU s/GB", "  server CPU, s a GB", 3, "", []versus{{distribution, ""}}},
		{"pushes", "peak MB", "  peak resident memory, MB", 0, "< 200", []versus{{distribution, ""}}},
		{"images", "images/s", images + ", images/s", 0, "", []versus{{distribution, "≥ 8"}}},
		{"images", "CPU ms/image", "  server CPU, ms an image", 2, "", []versus{{distribution, ""}}},
		{"tags", "first ms", perTag + ", p50 of the first tenth, ms", 2, "≤ 5", []versus{{distribution, ""}}},
		{"tags", "last ms", "  p50 of the last tenth, ms", 2, "≤ 5", []versus{{distribution, ""}}},
		{"tags", "last ÷ first", "  last ÷ first", 2, "≤ 1.2", []versus{{distribution, ""}}},
		{"tags", "page ms", fmt.Sprintf("tag list, page of %d from the middle, ms", pageSize), 2, "≤ 2", []versus{{distribution, ""}}},
		{"cold", "one ms", cold + ", 1 client, ms", 0, "", []versus{{direct, "≤ 1.1"}, {distribution, ""}}},
		{"cold", "many ms", fmt.Sprintf("  %d clients at once, ms", coldClients), 0, "", []versus{{direct, "≤ 1.2"}, {distribution, ""}}},
		{"cold", "many ratio", "  bytes asked of the upstream ÷ image", 2, "1.0", []versus{{distribution, ""}}},
		{"cold", "first byte ms", "first byte of a cold blob of 1 MB, ms", 1, "", []versus{{direct, ""}, {distribution, ""}}},
		{"cold", "first byte after direct ms", "  later than directly, ms", 1, "", []versus{{distribution, ""}}},
		{"cold", "warm requests/s", fmt.Sprintf("cached manifest GET by tag, %d clients, requests/s", manifestClients), 0, "", []versus{{private, "≥ 0.9"}, {distribution, ""}}},
		{"collection", "p50 ms", collection + ", p50 of pushes, ms", 1, "", []versus{{quiet, ""}}},
		{"collection", "p99 ms", "  p99 of pushes, ms", 1, "", []versus{{quiet, "≤ 2"}}},
		{"collection", "s", "  all of it, s", 1, "", []versus{{quiet, ""}}},
		{"nodes", "requests/s", fmt.Sprintf("manifest GET by tag, %d nodes on PostgreSQL, %d clients, requests/s", nodes, manifestClients), 0, "", []versus{{oneNode, "≥ 2.5 where it has the cores"}, {onFile, ""}}},
		{"nodes", "CPU µs/request", "  their CPU, µs a request", 1, "", []versus{{oneNode, ""}, {onFile, ""}}},
		{"scale", "p99 ms", fmt.Sprintf("slowest query of the API, %d manifests, %d blobs, p99, ms", s.Scale, s.Scale*blobsPerManifest), 2, "≤ 5", []versus{{postgresPeer, ""}}},
		{"scale", "p50 ms", "  p50 of the query in the middle, ms", 3, "", []versus{{postgresPeer, ""}}},
		{"scale", "GB", "  size of the database, GB", 1, "", []versus{{postgresPeer, ""}}},
		{"memory", "idle MB", "resident memory, idle, MB", 0, "bare Caddy + 30", []versus{{bareCaddy, ""}, {distribution, ""}, {nginx, ""}}},
		{"memory", "peak MB", "  peak of all that was measured, MB", 0, "bare Caddy + 100", []versus{{distribution, ""}, {nginx, ""}}},
	}
}

// printReport writes the table, of what was measured.
func printReport(ctx context.Context, w io.Writer, b *bench) {
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "work\tregistry\tgoal\tpeer\tits figure\tratio\t(lowest–highest)\tgoal")
	for _, row := range rows(b.settings) {
		own := b.results.values(row.measurement, row.metric, registry)
		if len(own) == 0 {
			continue
		}
		start := fmt.Sprintf("%s\t%.*f\t%s\t", row.work, row.digits, medianOf(own), row.goal)
		if b.base != "" {
			row.peers = append([]versus{{baseline, ""}}, row.peers...)
		}
		for _, versus := range row.peers {
			theirs := b.results.values(row.measurement, row.metric, versus.peer)
			if len(theirs) == 0 {
				fmt.Fprintf(table, "%s%s\t–\t\t\t%s\n", start, versus.peer, versus.goal)
			} else {
				ratio, low, high := compare(own, theirs)
				fmt.Fprintf(table, "%s%s\t%.*f\t%.2f\t(%.2f–%.2f)\t%s\n", start, versus.peer, row.digits, medianOf(theirs), ratio, low, high, versus.goal)
			}
			start = "\t\t\t"
		}
	}
	table.Flush()
	fmt.Fprintln(w)
	fmt.Fprintf(w, "Medians of %d rounds; a ratio is registry ÷ peer, the median of those of each round. MB is 10⁶ bytes.\n", b.Rounds)
	if b.results.LoadGenerator != "" {
		fmt.Fprintf(w, "Manifests were asked for by %s.\n", b.results.LoadGenerator)
	}
	for _, note := range b.results.Notes {
		fmt.Fprintf(w, "Note: %s\n", note)
	}
	fmt.Fprintln(w, machine(ctx, b.server))
}

func medianOf(byRound map[int]float64) float64 {
	var values []float64
	for _, value := range byRound {
		values = append(values, value)
	}
	return median(values)
}

// compare returns the median, the lowest and the highest of the ratios of two peers'
// figures in one round.
func compare(own, theirs map[int]float64) (ratio, low, high float64) {
	var ratios []float64
	for round, value := range own {
		if other := theirs[round]; other != 0 {
			ratios = append(ratios, value/other)
		}
	}
	if len(ratios) == 0 {
		return 0, 0, 0
	}
	return median(ratios), slices.Min(ratios), slices.Max(ratios)
}

// machine describes in a line what the figures were measured on.
func machine(ctx context.Context, server string) string {
	parts := []string{fmt.Sprintf("%d cores", runtime.NumCPU()), runtime.GOOS + "/" + runtime.GOARCH}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		parts = append(parts, "kernel "+strings.TrimSpace(string(kernel)))
	}
	parts = append(parts, runtime.Version(), "caddy "+version(ctx, server, "version"))
	for _, tool := range []struct{ name, flag string }{{"registry", "--version"}, {"nginx", "-v"}, {"wrk", "-v"}} {
		path, err := findTool(tool.name)
		if err != nil {
			parts = append(parts, "no "+tool.name)
			continue
		}
		parts = append(parts, version(ctx, path, tool.flag))
	}
	return strings.Join(parts, ", ")
}

// version returns the first line of what a program says to flag. wrk exits with 1 then.
func version(ctx context.Context, path, flag string) string {
	cmd := exec.CommandContext(ctx, path, flag)
	cmd.Env = environ()
	output, _ := cmd.CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
	return line
}

func writeJSON(ctx context.Context, file string, b *bench) error {
	encoded, err := json.MarshalIndent(struct {
		Machine  string   `json:"machine"`
		Settings settings `json:"settings"`
		results
	}{machine(ctx, b.server), b.settings, b.results}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(encoded, '\n'), 0o644)
}
