package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/eblume/caddy-registry/storage"
)

func gcCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gc [--dry-run]",
		Short: "Removes what nothing needs any more",
		Long: `
Removes what nothing needs any more, as the configuration says: the blocks gc and
retention, and upload_expiry. Pushes and pulls go on meanwhile. Content stays until the
delay of gc has passed since the last of what needed it went.`,
		Args: cobra.NoArgs,
	}
	dryRun := cmd.Flags().Bool("dry-run", false, "Tell what would go, and why, and remove nothing")
	cmd.RunE = withWork(func(ctx context.Context, client *controlClient, told func(storage.Progress), _ []string) error {
		var collected storage.Collected
		if err := client.work(ctx, "/gc", collectOrder{DryRun: *dryRun}, told, &collected); err != nil {
			return err
		}
		verb := "removed"
		if *dryRun {
			verb = "would remove"
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s, %s, %s (%s), %s, %s\n", verb,
			counted(collected.Tags, "tag"), counted(collected.Manifests, "manifest"),
			counted(collected.Blobs, "blob"), humanize.IBytes(uint64(collected.Bytes)),
			counted(collected.Uploads, "upload"), counted(collected.Orphans, "orphaned file"))
		return err
	})
	return cmd
}

// counted is a number of things in words.
func counted(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return humanize.Comma(n) + " " + what
}

func tagsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tags REPOSITORY [--history] [--json]",
		Short: "Lists the tags of a repository, or what they were",
		Long: `
Lists the tags of a repository, or with --history what tags named before they were moved
or deleted, and whether registry restore-tag can make them do so again.`,
		Args: cobra.ExactArgs(1),
	}
	history := cmd.Flags().Bool("history", false, "List what tags named before")
	asJSON := cmd.Flags().Bool("json", false, "Print a JSON object per line")
	cmd.RunE = withControl(func(ctx context.Context, client *controlClient, args []string) error {
		if err := storage.CheckName(args[0]); err != nil {
			return err
		}
		path := "/tags"
		if *history {
			path = "/tags/history"
		}
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		if !*asJSON {
			fmt.Fprintln(table, tagHeader(*history))
		}
		for next := ""; ; {
			var list tagList
			query := url.Values{"repository": {args[0]}, "last": {next}}
			if err := client.do(ctx, http.MethodGet, path+"?"+query.Encode(), &list); err != nil {
				return err
			}
			for i := range list.Tags {
				if *asJSON {
					if err := json.NewEncoder(cmd.OutOrStdout()).Encode(&list.Tags[i]); err != nil {
						return err
					}
					continue
				}
				fmt.Fprintln(table, tagRow(&list.Tags[i], *history))
			}
			if next = list.Next; next == "" {
				return table.Flush()
			}
		}
	})
	return cmd
}

func tagHeader(history bool) string {
	if history {
		return "TAG\tDIGEST\tFROM\tTO\tRESTORABLE"
	}
	return "TAG\tDIGEST\tPUSHED\tLAST PULLED"
}

func tagRow(t *storage.Tag, history bool) string {
	since := t.Since.Local().Format(time.DateTime)
	if !history {
		return fmt.Sprintf("%s\t%s\t%s\t%s", t.Name, t.Digest, since, ago(t.Pulled))
	}
	restorable := "no"
	if t.Restorable {
		restorable = "yes"
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", t.Name, t.Digest, since, t.Until.Local().Format(time.DateTime), restorable)
}

var errNoTag = errors.New("REPOSITORY:TAG is needed")

func restoreTagCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore-tag REPOSITORY:TAG --digest DIGEST",
		Short: "Makes a tag name a manifest again, also one that was deleted",
		Long: `
Makes a tag name a manifest again that it named before, as registry tags --history tells.
One that was deleted comes back with all that it consists of, until the delay of gc has
passed.`,
		Args: cobra.ExactArgs(1),
	}
	digest := cmd.Flags().String("digest", "", "Which manifest the tag is to name")
	if err := cmd.MarkFlagRequired("digest"); err != nil {
		panic(err) // only for a flag that is not there
	}
	cmd.RunE = withControl(func(ctx context.Context, client *controlClient, args []string) error {
		repository, tag, err := splitReference(args[0])
		if err != nil {
			return err
		}
		if tag == "" {
			return errNoTag
		}
		query := url.Values{"repository": {repository}, "tag": {tag}, "digest": {*digest}}
		return client.do(ctx, http.MethodPut, "/tags?"+query.Encode(), new(struct{}))
	})
	return cmd
}
