package caddymodule

import (
	"context"
	"errors"
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/eblume/caddy-registry/backup"
	"github.com/eblume/caddy-registry/storage"
)

var errToIsNeeded = errors.New("--to is needed: the configuration that says where all is to be")

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate --to CONFIG",
		Short: "Moves everything to other storage, or another database",
		Long: `
Copies everything to where another configuration has its storage and its database, which
must be empty, and verifies it. A server that runs serves on: while bytes are copied it
also takes pushes, and at the end, when the rest follows, and from then on, it refuses
them with 503, so that nothing is lost between the two. Stop it then and start one with
the other configuration; what it had stays where it is. When the command was interrupted
the server takes pushes again, and the same command goes on where it was. Users, API keys
and what was deleted lately are moved too; uploads under way are not, and are begun anew.
The key that encrypts secrets is in Caddy's own storage, which is not moved.`,
		Args: cobra.NoArgs,
	}
	to := cmd.Flags().String("to", "", "Configuration file that says where all is to be")
	from := cmd.Flags().String("from", "", "Configuration file that says where all is, as --config does")
	run := withWork(func(ctx context.Context, client *controlClient, told func(storage.Progress), _ []string) error {
		target, err := loadApp(*to)
		if err != nil {
			return fmt.Errorf("%s: %w", *to, err)
		}
		var summary backup.Summary
		err = client.work(ctx, "/migrate", newMigrateOrder(target), told, &summary)
		if err == nil || summary.Problems > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "moved %s (%s) of %d; now stop the server, if one runs, and start it with %s\n",
				counted(summary.Copied, "blob"), humanize.IBytes(uint64(summary.Bytes)), summary.Blobs, *to)
		}
		return err
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *to == "" {
			return errToIsNeeded
		}
		if *from != "" {
			if err := cmd.Flags().Set("config", *from); err != nil {
				return err
			}
		}
		return run(cmd, args)
	}
	return cmd
}
