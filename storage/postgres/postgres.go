// Package postgres keeps a registry's facts in PostgreSQL, which several processes may share.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/dial"
	"github.com/eblume/caddy-registry/storage/internal/schema"
)

const (
	// maxConnections is how many connections a process has at most.
	maxConnections = 20
	// idleFor is how long one is kept that nobody uses.
	idleFor = 5 * time.Minute
	// usedFor is how long one is used at most: a name may stand for another server by then.
	usedFor = 30 * time.Minute
	// frozenAfter is how long a transaction may stand still, in a process that stopped,
	// before the server ends it: others wait for it to write.
	frozenAfter = 10 * time.Second
	// migrateSeconds is how long a process waits for another that migrates.
	migrateSeconds = 300
	// lockedFor is how long a write waits for others before it gives up.
	lockedFor = 20 * time.Second
	// silentFor is how long the server may take to answer a statement of a write, unless that
	// is said to take its time: all writes wait for it.
	silentFor = 30 * time.Second
)

// Database is a [storage.Database] on a server.
type Database struct {
	db     *sql.DB
	writer *writer
}

// Open returns the database at a URL, or a connection string as libpq has it, which is
// brought to the schema of today if need be. Several processes may open it at once.
func Open(ctx context.Context, url string) (*Database, error) {
	config, err := parse(url)
	if err != nil {
		return nil, err
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "caddy-registry"
	}
	dialer := dial.New()
	config.DialFunc = dialer.DialContext
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = dial.Timeout
	}
	dialer.Timeout = config.ConnectTimeout
	if config.ValidateConnect == nil {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	keep := config.OnPgError
	config.OnPgError = func(conn *pgconn.PgConn, told *pgconn.PgError) bool {
		return told.Code != readOnly && keep(conn, told)
	}
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(set))
	db.SetMaxOpenConns(maxConnections)
	db.SetMaxIdleConns(maxConnections)
	db.SetConnMaxIdleTime(idleFor)
	db.SetConnMaxLifetime(usedFor)
	if err := migrate(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("bringing it to the schema of today: %w", err), db.Close())
	}
	return &Database{db: db, writer: newWriter(db)}, nil
}

// set sets what a connection is to have, unless its URL does: by a statement, since a pooler in
// between refuses what it does not know when it is connected to.
func set(ctx context.Context, conn *pgx.Conn) error {
	var names, values []string
	for name, value := range map[string]string{
		"idle_in_transaction_session_timeout": milliseconds(frozenAfter),
		"lock_timeout":                        milliseconds(lockedFor),
		"synchronous_commit":                  "on",
	} {
		if conn.Config().RuntimeParams[name] == "" {
			names, values = append(names, name), append(values, value)
		}
	}
	_, err := conn.Exec(ctx, `SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS setting (name, value)`, names, values)
	return err
}

// Name returns what a database is called: where it is and as whom it is asked, without a
// password.
func Name(url string) (string, error) {
	config, err := parse(url)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s@%s:%d/%s", config.User, config.Host, config.Port, config.Database), nil
}

var errUnreadable = errors.New("it is neither a URL of PostgreSQL nor a connection string")

func parse(url string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errUnreadable // the parser's own error may have the password
	}
	return config, nil
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// minVersion is the oldest server that ends sessions that stand still.
const minVersion = 14

func migrate(ctx context.Context, db *sql.DB) error {
	var version int
	if err := db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int / 10000`).Scan(&version); err != nil {
		return err
	}
	if version < minVersion {
		return fmt.Errorf("the server is PostgreSQL %d, and must be %d or newer", version, minVersion)
	}
	// Of processes that start at once, one migrates; others look every second whether it has.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, migrateSeconds))
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations(storage.Migrations()), goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	return schema.Up(ctx, provider)
}

// Read implements [storage.Database].
func (d *Database) Read(ctx context.Context) storage.Querier { return reader{ctx, d.db} }

// Write implements [storage.Database]. Writes that come while others are being committed
// share the next commit. All processes write one after the other, as if there were one.
func (d *Database) Write(ctx context.Context, f func(storage.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.writer.batches.Write(f)
}

// ReadMoment implements [storage.MomentReader].
func (d *Database) ReadMoment(ctx context.Context, f func(storage.Querier) error) error {
	transaction, err := d.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return explain(err)
	}
	defer func() { _ = transaction.Rollback() }() // it has only read
	tx := &tx{ctx: ctx, tx: transaction}
	// It holds nothing that others wait for, and may wait for who writes what it reads.
	if _, err := tx.Exec(`SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		return err
	}
	return f(tx)
}

// Shared implements [storage.Database].
func (d *Database) Shared() bool { return true }

// Resequence implements [storage.Resequencer].
func (d *Database) Resequence(tx storage.Tx) error {
	_, err := tx.Exec(`DO $$
		DECLARE c record;
		BEGIN
			FOR c IN SELECT table_name, column_name FROM information_schema.columns
				WHERE table_schema = current_schema() AND is_identity = 'YES' AND table_name <> 'goose_db_version'
			LOOP
				EXECUTE format('SELECT setval(pg_get_serial_sequence(%L, %L), coalesce((SELECT max(%I) FROM %I), 0) + 1, false)',
					c.table_name, c.column_name, c.column_name, c.table_name);
			END LOOP;
		END $$`)
	return err
}

// Close implements [storage.Database].
func (d *Database) Close() error { return errors.Join(d.writer.close(), d.db.Close()) }

// reader runs statements on any connection.
type reader struct {
	ctx context.Context
	db  *sql.DB
}

func (r reader) Query(query string, args ...any) (*sql.Rows, error) {
	rows, err := r.db.QueryContext(r.ctx, query, args...)
	return rows, explain(err)
}

func (r reader) QueryRow(query string, args ...any) storage.Row {
	return row{r.db.QueryRowContext(r.ctx, query, args...)}
}

// row explains the error of a query.
type row struct{ *sql.Row }

func (r row) Scan(dest ...any) error { return explain(r.Row.Scan(dest...)) }

// Interface guards
var (
	_ storage.Database     = (*Database)(nil)
	_ storage.Resequencer  = (*Database)(nil)
	_ storage.MomentReader = (*Database)(nil)
	_ storage.Row          = row{}
)
