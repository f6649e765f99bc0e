package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/eblume/caddy-registry/storage"
)

func keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apikey",
		Short: "Makes, lists and revokes API keys",
	}
	cmd.AddCommand(createKeyCommand(), listKeysCommand(), revokeKeyCommand())
	return cmd
}

func createKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create --user USER [--group GROUP]... [--label LABEL] [--expires 90d] [--scope SCOPE]...",
		Short: "Makes an API key, and prints it this once",
		Long: `
Makes an API key and prints it, and nothing else. It is kept nowhere, only a hash of it
is. It does what policies allow its user and groups, and no more than its scopes, such
as read:team/** or read,create:team/**, if any are given.`,
		Args: cobra.NoArgs,
	}
	var order keyOrder
	flags := cmd.Flags()
	flags.StringVar(&order.User, "user", "", "Whose key it is; clients send this name with it")
	flags.StringArrayVar(&order.Groups, "group", nil, "Group that policies know; may be repeated")
	flags.StringVar(&order.Label, "label", "", "What it is for")
	flags.StringArrayVar(&order.Scopes, "scope", nil, "What it is limited to, as action:glob; may be repeated")
	expires := flags.String("expires", "90d", "How long it works")
	if err := cmd.MarkFlagRequired("user"); err != nil {
		panic(err) // only for a flag that is not there
	}
	cmd.RunE = withControl(func(ctx context.Context, client *controlClient, _ []string) (err error) {
		if order.Lifetime, err = Duration(*expires).parse(); err != nil {
			return fmt.Errorf("--expires: %w", err)
		}
		var key newKey
		if err := client.send(ctx, http.MethodPost, "/keys", order, &key); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Text)
		return err
	})
	return cmd
}

func listKeysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [--json]",
		Short: "Lists API keys, without their secrets",
		Args:  cobra.NoArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "Print JSON")
	cmd.RunE = withControl(func(ctx context.Context, client *controlClient, _ []string) error {
		var keys []storage.APIKey
		if err := client.do(ctx, http.MethodGet, "/keys", &keys); err != nil {
			return err
		}
		if *asJSON {
			listed := make([]listedKey, 0, len(keys))
			for i := range keys {
				listed = append(listed, listKey(&keys[i]))
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(listed)
		}
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "ID\tUSER\tLABEL\tSCOPES\tLAST USED\tSTATE")
		now := time.Now()
		for i := range keys {
			k := &keys[i]
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Owner, orDash(k.Label), orDash(strings.Join(k.Scopes, " ")), ago(k.LastUsed), keyState(k, now))
		}
		return table.Flush()
	})
	return cmd
}

// listedKey is a key as programs read it. Times that never come are null.
type listedKey struct {
	ID       string     `json:"id"`
	User     string     `json:"user"`
	Groups   []string   `json:"groups"`
	Label    string     `json:"label"`
	Scopes   []string   `json:"scopes"`
	Created  time.Time  `json:"created"`
	Expires  time.Time  `json:"expires"`
	LastUsed *time.Time `json:"last_used"`
	Revoked  *time.Time `json:"revoked"`
}

func listKey(k *storage.APIKey) listedKey {
	return listedKey{
		ID: k.ID, User: k.Owner, Groups: append([]string{}, k.Groups...), Label: k.Label, Scopes: append([]string{}, k.Scopes...),
		Created: k.Created, Expires: k.Expires, LastUsed: orNull(k.LastUsed), Revoked: orNull(k.Revoked),
	}
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return humanize.Time(t)
}

func keyState(k *storage.APIKey, now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return "revoked " + k.Revoked.Local().Format(time.DateTime)
	case k.Ended(now):
		return "expired " + k.Expires.Local().Format(time.DateTime)
	}
	return "until " + k.Expires.Local().Format(time.DateTime)
}

func revokeKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Ends an API key, and the tokens that were made for it",
		Args:  cobra.ExactArgs(1),
	}
	cmd.RunE = withControl(func(ctx context.Context, client *controlClient, args []string) error {
		if args[0] == "" {
			return errNoKeyID
		}
		return client.do(ctx, http.MethodDelete, "/keys/"+url.PathEscape(args[0]), new(struct{}))
	})
	return cmd
}
