package storage

import (
	"io/fs"
	"regexp"
	"slices"
	"testing"
)

// TestEachTableIsCopiedOrKnownNotToBe fails for a table that a backup would forget.
func TestEachTableIsCopiedOrKnownNotToBe(t *testing.T) {
	var made []string
	migrations := Migrations()
	files, err := fs.Glob(migrations, "*.sql")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		content, err := fs.ReadFile(migrations, file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`(?m)^CREATE TABLE (\w+)`).FindAllStringSubmatch(string(content), -1) {
			made = append(made, match[1])
		}
	}
	known := slices.Concat(tables, uncopiedTables)
	slices.Sort(made)
	slices.Sort(known)
	if !slices.Equal(made, known) {
		t.Errorf("there are the tables %q, known are %q", made, known)
	}
}
