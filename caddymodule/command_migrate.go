package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/eblume/caddy-registry/backup"
	"github.com/eblume/caddy-registry/storage"
)

var (
	errToIsNeeded = errors.New("--to is needed: the configuration that says where all is to be")
	errToOrUndo   = errors.New("--to and --undo are not for the same command")
)

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate --to CONFIG | --undo",
		Short: "Moves everything to other storage, or another database",
		Long: `
Copies everything to where another configuration has its storage and its database, which
must be empty, and verifies it. A server that runs serves on: while bytes are copied it
also takes pushes, and at the end, when the rest follows, and from then on, it refuses
them with 503, so that nothing is lost between the two. That holds for all servers of the
registry, and also after they are started again. Stop them then and start one with the
other configuration; what they had stays where it is. When the command was interrupted
pushes are taken again, and the same command goes on where it was; if the server was
killed at the very end they are when that is done. Users, API keys and what was deleted
lately are moved too; uploads under way are not, and are begun anew. The key that encrypts
secrets is in Caddy's own storage, which is not moved.

With --undo a registry that was moved, or that a move left refusing pushes, takes them
again where it is. What was pushed to the other place since is not here.`,
		Args: cobra.NoArgs,
	}
	to := cmd.Flags().String("to", "", "Configuration file that says where all is to be")
	from := cmd.Flags().String("from", "", "Configuration file that says where all is, as --config does")
	undo := cmd.Flags().Bool("undo", false, "Take pushes again where all was")
	move := withWork(func(ctx context.Context, client *controlClient, told func(storage.Progress), _ []string) error {
		target, err := loadApp(*to)
		if err != nil {
			return fmt.Errorf("%s: %w", *to, err)
		}
		order, err := newMigrateOrder(target)
		if err != nil {
			return fmt.Errorf("%s: %w", *to, err)
		}
		var summary backup.Summary
		err = client.work(ctx, "/migrate", order, told, &summary)
		if err == nil || summary.Problems > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "moved %s (%s) of %d; now stop the server, if one runs, and start it with %s\n",
				counted(summary.Copied, "blob"), humanize.IBytes(uint64(summary.Bytes)), summary.Blobs, *to)
		}
		return err
	})
	stay := withApps(func(ctx context.Context, client *controlClient, _ []string) error {
		err := client.do(ctx, http.MethodDelete, "/migrate", &struct{}{})
		if err == nil {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "pushes are taken")
		}
		return err
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *undo && *to != "":
			return errToOrUndo
		case !*undo && *to == "":
			return errToIsNeeded
		}
		if *from != "" {
			if err := cmd.Flags().Set("config", *from); err != nil {
				return err
			}
		}
		if *undo {
			return stay(cmd, args)
		}
		return move(cmd, args)
	}
	return cmd
}
