package scale_test

import (
	"path/filepath"
	"testing"

	"github.com/eblume/caddy-registry/bench/scale"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// TestEveryQueryOfTheAPIUsesAnIndex of SQLite, whose plans are those of a large database, as
// long as nothing counts its rows.
func TestEveryQueryOfTheAPIUsesAnIndex(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	blobs, err := filesystem.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	database, err := sqlite.Open(t.Context(), filepath.Join(dir, "registry.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	size := scale.Size{Repositories: 20}
	if err := scale.Fill(t.Context(), database, size); err != nil {
		t.Fatal(err)
	}
	recorder, err := scale.Measure(t.Context(), blobs, database, size, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer recorder.Close()
	plans, err := recorder.Plans(t.Context(), scale.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	if len(plans) < 50 {
		t.Errorf("only %d statements were run", len(plans))
	}
	for _, p := range plans {
		for _, table := range p.Scanned {
			t.Errorf("%s is read from one end to the other by\n%s\n%q", table, p.Statement.Text, p.Lines)
		}
	}
	for _, s := range recorder.Statements() {
		if len(s.Times) == 0 {
			t.Errorf("not measured: %s", s.Text)
		}
	}
}
