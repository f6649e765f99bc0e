package scale

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/eblume/caddy-registry/storage"
)

// Engine is how a database tells of its plans.
type Engine struct {
	Name    string
	prefix  string
	columns int // of a line of a plan, of which the last says all
	scan    *regexp.Regexp
	// noScan has a plan use indexes also where it would be quicker not to; empty: it does.
	noScan string
}

var (
	// SQLite is that of package sqlite.
	SQLite = Engine{"SQLite", "EXPLAIN QUERY PLAN ", 4, regexp.MustCompile(`^SCAN (\w+)( AS \w+)?$`), ""}
	// PostgreSQL is that of package postgres.
	PostgreSQL = Engine{"PostgreSQL", "EXPLAIN ", 1, regexp.MustCompile(`Seq Scan on (\w+)`), "SET LOCAL enable_seqscan = off"}
)

// few are tables that have a few rows however large a registry is, and are read whole.
var few = []string{"signing_keys"}

// explains reports whether a statement has a plan.
func (e Engine) explains(statement string) bool {
	word, _, _ := strings.Cut(strings.TrimSpace(statement), " ")
	switch strings.TrimSpace(word) {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "WITH":
		return true
	}
	return false
}

// smallTable is how many rows a table has at most that is read whole though it has an index.
const smallTable = 1000

// plan returns how a statement is run. Where a small table is read whole it is how that is
// done when the table has grown.
func (e Engine) plan(tx storage.Tx, s *Statement) (Plan, error) {
	args := s.args[len(s.args)-1]
	lines, err := e.explain(tx, s.text, args)
	if err != nil {
		return Plan{}, err
	}
	scanned := e.scanned(lines)
	small := e.noScan != "" && len(scanned) > 0
	for _, table := range scanned {
		var rows int
		if err := tx.QueryRow(`SELECT count(*) FROM (SELECT 1 FROM ` + table + ` LIMIT 1001) AS first_rows`).Scan(&rows); err != nil {
			return Plan{}, err
		}
		small = small && rows <= smallTable
	}
	if small {
		if _, err := tx.Exec(e.noScan); err != nil {
			return Plan{}, err
		}
		if lines, err = e.explain(tx, s.text, args); err != nil {
			return Plan{}, err
		}
		scanned = e.scanned(lines)
	}
	return Plan{s, lines, scanned}, nil
}

func (e Engine) explain(tx storage.Tx, statement string, args []any) ([]string, error) {
	rows, err := tx.Query(e.prefix+statement, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line string
		into := make([]any, e.columns)
		for i := range into {
			into[i] = new(any)
		}
		into[e.columns-1] = &line
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, errors.Join(rows.Err())
}

// scanned returns the tables that a plan reads from one end to the other.
func (e Engine) scanned(lines []string) []string {
	var tables []string
	for _, line := range lines {
		if found := e.scan.FindStringSubmatch(line); found != nil {
			tables = append(tables, found[1])
		}
	}
	return slices.DeleteFunc(tables, func(table string) bool { return slices.Contains(few, table) })
}
