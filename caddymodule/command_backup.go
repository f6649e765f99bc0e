package caddymodule

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/eblume/caddy-registry/backup"
	"github.com/eblume/caddy-registry/storage"
)

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [--repair]",
		Short: "Reads all that is stored again, and tells what is damaged",
		Long: `
Reads all that is stored again and tells what is damaged, which is not served from then
on: bytes that are wrong go to the folder quarantine of the storage directory. What is
cached is fetched again when it is pulled, or at once with --repair; what was pushed must
be pushed again. The exit code is 1 if something is damaged that was not repaired.`,
		Args: cobra.NoArgs,
	}
	repair := cmd.Flags().Bool("repair", false, "Fetch again what is cached from elsewhere")
	verify := func(ctx context.Context, client *controlClient, told func(storage.Progress), _ []string) error {
		var found storage.Verified
		err := client.work(ctx, "/verify", verifyOrder{Repair: *repair}, told, &found)
		if err == nil || found.Damaged > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "read %s (%s) and %s: %d damaged, %d repaired\n", counted(found.Blobs, "blob"),
				humanize.IBytes(uint64(found.Bytes)), counted(found.Manifests, "manifest"), found.Damaged, found.Repaired)
		}
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *repair {
			return withWork(verify, "http")(cmd, args)
		}
		return withWork(verify)(cmd, args)
	}
	return cmd
}

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FOLDER",
		Short: "Copies everything to a folder, while pushes and pulls go on",
		Long: `
Copies everything to a folder as it is at one moment, while pushes and pulls go on. To a
folder that has an earlier backup only what is new is copied, and that one stays whole
until the new one is. A backup is laid out as a storage directory, and is verified as it
is copied. The key that encrypts refresh tokens, in Caddy's own storage, is not in it.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = withWork(func(ctx context.Context, client *controlClient, told func(storage.Progress), args []string) error {
		return folderWork(ctx, cmd, client, "/backup", args[0], "copied", told)
	})
	return cmd
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FOLDER",
		Short: "Fills an empty registry from a backup",
		Long: `
Fills an empty registry, whether or not it is being served, from a backup. Until all of
it is there the registry stays empty; when it was interrupted it is simply run again.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = withWork(func(ctx context.Context, client *controlClient, told func(storage.Progress), args []string) error {
		return folderWork(ctx, cmd, client, "/restore", args[0], "restored", told)
	})
	return cmd
}

// folderWork asks for a backup or a restore, and tells what came of it.
func folderWork(ctx context.Context, cmd *cobra.Command, client *controlClient, path, folder, did string, told func(storage.Progress)) error {
	// The server has a working directory of its own.
	folder, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	var summary backup.Summary
	err = client.work(ctx, path, folderOrder{Folder: folder}, told, &summary)
	if err == nil || summary.Problems > 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s (%s) of %d\n", did, counted(summary.Copied, "blob"), humanize.IBytes(uint64(summary.Bytes)), summary.Blobs)
	}
	return err
}
