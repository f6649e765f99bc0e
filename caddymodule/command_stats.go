package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/eblume/caddy-registry/storage"
)

func statsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [--json]",
		Short: "Counts what is stored, and by whom it is used",
		Args:  cobra.NoArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "Print JSON")
	cmd.RunE = withControl(func(ctx context.Context, client *controlClient, _ []string) error {
		var overview storage.Overview
		if err := client.do(ctx, http.MethodGet, "/stats", &overview); err != nil {
			return err
		}
		if *asJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(overview)
		}
		return printOverview(cmd.OutOrStdout(), &overview)
	})
	return cmd
}

func printOverview(w io.Writer, o *storage.Overview) error {
	size := func(n int64) string { return humanize.IBytes(uint64(n)) }
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "repositories\t%d\n", o.Repositories)
	fmt.Fprintf(table, "tags\t%d\n", o.Tags)
	fmt.Fprintf(table, "manifests\t%d\n", o.Manifests)
	fmt.Fprintf(table, "blobs\t%d\t%s\n", o.Blobs, size(o.BlobBytes))
	fmt.Fprintf(table, "uploads under way\t%d\n", o.Uploads)
	fmt.Fprintf(table, "evictable\t\t%s\n", size(o.Evictable))
	fmt.Fprintf(table, "deleted, can be restored\t%d\t%s\n", o.DeletedManifests, size(o.DeletedBytes))
	fmt.Fprintf(table, "damaged\t%d\n", o.Damaged)
	fmt.Fprintf(table, "garbage collected\t%s\n", ago(o.Collected))
	fmt.Fprintf(table, "verified\t%s\n", ago(o.Verified))
	if err := table.Flush(); err != nil {
		return err
	}
	if len(o.Namespaces) > 0 {
		fmt.Fprintln(table, "\nNAMESPACE\tREPOSITORIES\tSIZE")
		for _, n := range o.Namespaces {
			fmt.Fprintf(table, "%s\t%d\t%s\n", n.Name, n.Repositories, size(n.Bytes))
		}
	}
	if len(o.Quotas) > 0 {
		fmt.Fprintln(table, "\nQUOTA\tUSED\tOF")
		for _, q := range o.Quotas {
			fmt.Fprintf(table, "%s\t%s\t%s\n", q.Name, size(q.Used), size(q.Bytes))
		}
	}
	return table.Flush()
}
