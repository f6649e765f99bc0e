package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/eblume/caddy-registry/layout"
	"github.com/eblume/caddy-registry/storage"
)

func importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FOLDER [--prefix PREFIX] [--link]",
		Short: "Brings in what zot has stored, or any OCI image layout",
		Long: `
Brings in all of a folder: an OCI image layout, or a folder of them such as zot's storage,
where each is a repository of its path; what zot has cached of other registries stays a
copy of theirs. zot's API keys come along if it is not running. All bytes are checked.
What is here already is passed over, and tags that name something else here stay, so that
the command can simply be run again. The exit code is 1 if something could not be
imported, which is told.`,
		Args: cobra.ExactArgs(1),
	}
	var order importOrder
	cmd.Flags().StringVar(&order.Prefix, "prefix", "", "Put before names of repositories; of a single layout its name (default: its folder's)")
	cmd.Flags().BoolVar(&order.Link, "link", false, "Link files rather than copy them, if they are on the same disk")
	cmd.RunE = withWork(func(ctx context.Context, client *controlClient, told func(storage.Progress), args []string) (err error) {
		if order.Folder, err = filepath.Abs(args[0]); err != nil {
			return err
		}
		var s layout.Summary
		err = client.work(ctx, "/import", order, told, &s)
		if err == nil || s.Problems > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "imported %s of %s: %s, %s (%s, %d of them linked), %s\n", counted(s.Tags, "tag"), countedRepositories(s.Repositories),
				counted(s.Manifests, "manifest"), counted(s.Blobs, "blob"), humanize.IBytes(uint64(s.Bytes)), s.Linked, counted(s.Keys, "API key"))
		}
		return err
	})
	return cmd
}

func countedRepositories(n int64) string {
	if n == 1 {
		return "1 repository"
	}
	return humanize.Comma(n) + " repositories"
}

var errNoFolder = errors.New("--to FOLDER is needed")

func exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export REPOSITORY[:TAG|@DIGEST]... --to FOLDER",
		Short: "Writes images to an OCI image layout",
		Long: `
Writes images to a folder, as an OCI image layout that other tools read, or, if they are
of several repositories, as one for each in a folder of its name, which registry import
brings back. Signatures and the like come along. A layout that is there is added to.`,
		Args: cobra.MinimumNArgs(1),
	}
	to := cmd.Flags().String("to", "", "The folder")
	cmd.RunE = withWork(func(ctx context.Context, client *controlClient, told func(storage.Progress), args []string) (err error) {
		if *to == "" {
			return errNoFolder
		}
		var order exportOrder
		if order.Folder, err = filepath.Abs(*to); err != nil {
			return err
		}
		for _, arg := range args {
			repository, reference, err := splitReference(arg)
			if err != nil {
				return err
			}
			order.Select = append(order.Select, layout.Selection{Repository: repository, Reference: reference})
		}
		var s layout.Summary
		err = client.work(ctx, "/export", order, told, &s)
		if err == nil || s.Problems > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "exported %s of %s: %s, %s (%s)\n", counted(s.Tags, "tag"), countedRepositories(s.Repositories),
				counted(s.Manifests, "manifest"), counted(s.Blobs, "blob"), humanize.IBytes(uint64(s.Bytes)))
		}
		return err
	})
	return cmd
}
