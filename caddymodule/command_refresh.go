package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

// refreshed is what a tag of a copy names.
type refreshed struct {
	Is  digest.Digest `json:"is"`
	Was digest.Digest `json:"was"` // before the upstream was asked; empty: it was not here
}

func refreshCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "refresh REPOSITORY:TAG",
		Short: "Asks an upstream what a cached tag names now",
		Long: `
Asks the upstream of a cached repository, such as docker.io/library/nginx, what a tag names
now, however fresh the copy is.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = withCaches(func(ctx context.Context, client *controlClient, args []string) error {
		repository, tag, err := splitReference(args[0])
		if err != nil {
			return err
		}
		if tag == "" {
			return errNoTag
		}
		var found refreshed
		query := url.Values{"repository": {repository}, "tag": {tag}}
		if err := client.do(ctx, http.MethodPost, "/refresh?"+query.Encode(), &found); err != nil {
			return err
		}
		switch found.Was {
		case found.Is:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s still\n", args[0], found.Is)
		case "":
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], found.Is)
		default:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, was %s\n", args[0], found.Is, found.Was)
		}
		return err
	})
	return cmd
}
