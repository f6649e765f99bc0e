package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/eblume/caddy-registry/storage"
)

// explain marks an error that means that the server cannot do anything now, whatever it is
// asked. Other errors stay what they are.
func explain(err error) error {
	if err == nil || errors.Is(err, sql.ErrNoRows) || errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrUnavailable) {
		return err
	}
	var told *pgconn.PgError
	if !errors.As(err, &told) {
		var connect *pgconn.ConnectError
		if errors.As(err, &connect) || isBroken(err) {
			return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
		}
		return err
	}
	// PostgreSQL's manual, appendix A.
	switch told.Code[:2] {
	case "08", // of the connection
		"53", // no room, too many connections
		"57": // shut down, starting up
		if told.Code == diskFull {
			return fmt.Errorf("%w: %w", storage.ErrFull, err)
		}
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	switch told.Code {
	case lockNotAvailable, stoodStill, readOnly:
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	return err
}

// isLocked reports whether somebody holds a lock for too long, who was waited for already.
func isLocked(err error) bool {
	var told *pgconn.PgError
	return errors.As(err, &told) && told.Code == lockNotAvailable
}

const (
	diskFull         = "53100"
	readOnly         = "25006" // it was the primary, or is not yet
	lockNotAvailable = "55P03"
	stoodStill       = "25P03" // idle_in_transaction_session_timeout
)

// isBroken reports whether an error is of a connection that broke.
func isBroken(err error) bool {
	var network net.Error
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &network)
}
