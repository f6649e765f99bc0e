package storage

import (
	"fmt"
	"strings"
)

const (
	// insertRows is how many rows are inserted by one statement: a server elsewhere takes
	// the time of a way there and back for each.
	insertRows = 100
	// insertBytes is how many bytes of content they may have, but for the last.
	insertBytes = 1 << 20
)

// Inserter inserts rows into a table, many by one statement.
type Inserter struct {
	tx      Tx
	table   string
	columns []string

	values []any // of the rows that wait
	rows   int
	bytes  int
}

// NewInserter returns what inserts values of some columns.
func NewInserter(tx Tx, table string, columns ...string) *Inserter {
	return &Inserter{tx: tx, table: table, columns: columns}
}

// Add adds a row, which has a value for each column. It is there after Flush.
func (i *Inserter) Add(row ...any) error {
	i.values = append(i.values, row...)
	i.rows++
	for _, value := range row {
		if content, ok := value.([]byte); ok {
			i.bytes += len(content)
		}
	}
	if i.rows < insertRows && i.bytes < insertBytes {
		return nil
	}
	return i.Flush()
}

// Flush inserts the rows that wait.
func (i *Inserter) Flush() error {
	if i.rows == 0 {
		return nil
	}
	var statement strings.Builder
	fmt.Fprintf(&statement, "INSERT INTO %s (%s) VALUES ", i.table, strings.Join(i.columns, ", "))
	for n := range i.values {
		switch {
		case n == 0:
			statement.WriteString("(")
		case n%len(i.columns) == 0:
			statement.WriteString("), (")
		default:
			statement.WriteString(", ")
		}
		fmt.Fprintf(&statement, "$%d", n+1)
	}
	statement.WriteString(")")
	_, err := i.tx.Exec(statement.String(), i.values...)
	i.values, i.rows, i.bytes = i.values[:0], 0, 0
	return err
}
