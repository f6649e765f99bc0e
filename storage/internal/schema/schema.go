// Package schema brings a database to the tables that this version needs.
package schema

import (
	"context"
	"fmt"

	"github.com/pressly/goose/v3"
)

// Up takes the steps that are left, or refuses a database of a newer version, whose facts
// this one does not know.
func Up(ctx context.Context, steps *goose.Provider) error {
	current, known, err := steps.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > known {
		return fmt.Errorf("it is of a newer version of this program: its schema is %d, this one knows %d", current, known)
	}
	_, err = steps.Up(ctx)
	return err
}
