package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "registry",
		Usage: "<command>",
		Short: "Looks after the image registry",
		Long: `
Looks after the registry that a configuration describes, whether or not a server is
running with it.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.PersistentFlags().StringP("config", "c", "Caddyfile", "Configuration file, a Caddyfile or .json")
			cmd.AddCommand(statsCommand(), tagsCommand(), deleteCommand(), restoreTagCommand())
			cmd.AddCommand(gcCommand(), verifyCommand(), backupCommand(), restoreCommand(), importCommand(), exportCommand(), migrateCommand())
			cmd.AddCommand(refreshCommand(), keyCommand(), canCommand())
			beBrief(cmd)
		},
	})
}

// beBrief lets a command and those below it say what is wrong in one line, without how
// they are used.
func beBrief(cmd *cobra.Command) {
	cmd.SilenceUsage = true
	for _, child := range cmd.Commands() {
		beBrief(child)
	}
}

func deleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete REPOSITORY[:TAG|@DIGEST]",
		Short: "Deletes a tag, a manifest with its tags, or a whole repository",
		Args:  cobra.ExactArgs(1),
	}
	cmd.RunE = withControl(func(ctx context.Context, client *controlClient, args []string) error {
		repository, reference, err := splitReference(args[0])
		if err != nil {
			return err
		}
		query := url.Values{"repository": {repository}, "reference": {reference}}
		return client.do(ctx, http.MethodDelete, "/content?"+query.Encode(), new(struct{}))
	})
	return cmd
}

// splitReference splits repository@digest or repository:tag. A reference may be missing,
// but not after its sign: the repository would be taken for what is meant.
func splitReference(s string) (repository, reference string, err error) {
	i := strings.IndexAny(s, "@:")
	if i < 0 {
		return s, "", nil
	}
	if i == len(s)-1 {
		return "", "", fmt.Errorf("%s: nothing follows the %q", s, s[i:])
	}
	return s[:i], s[i+1:], nil
}

// withControl makes a command of what it asks of the registry that --config describes.
func withControl(run func(ctx context.Context, client *controlClient, args []string) error) func(*cobra.Command, []string) error {
	return withApps(run)
}

// withCaches is withControl for commands that ask upstreams, whether or not a server runs
// that knows them.
func withCaches(run func(ctx context.Context, client *controlClient, args []string) error) func(*cobra.Command, []string) error {
	return withApps(run, "http")
}

// withApps is withControl with more of the configuration than the registry's own app.
func withApps(run func(ctx context.Context, client *controlClient, args []string) error, more ...string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		config, err := cmd.Flags().GetString("config")
		if err != nil {
			return err
		}
		app, err := loadApp(config, more...)
		if err != nil {
			return err
		}
		client, err := newControlClient(cmd.Context(), app)
		if err != nil {
			return err
		}
		err = run(cmd.Context(), client, args)
		if closeErr := client.close(); err == nil {
			err = closeErr
		}
		return err
	}
}

// loadConfig returns the configuration of a file.
func loadConfig(file string) (*caddy.Config, error) {
	config, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w (--config names another file)", err)
	}
	if filepath.Ext(file) != ".json" {
		adapter := caddyconfig.GetAdapter("caddyfile")
		if config, _, err = adapter.Adapt(config, map[string]any{"filename": file}); err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
	}
	parsed := new(caddy.Config)
	if err := json.Unmarshal(config, parsed); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", file, err)
	}
	return parsed, nil
}

// loadApp returns the registry app that a configuration file describes; one without
// the global option has the defaults. Nothing of it runs, nor of more apps that are loaded
// with it.
func loadApp(file string, more ...string) (*App, error) {
	parsed, err := loadConfig(file)
	if err != nil {
		return nil, err
	}
	raw := parsed.AppsRaw["registry"]
	if raw == nil {
		raw = json.RawMessage("{}")
	}
	apps := caddy.ModuleMap{"registry": raw}
	for _, name := range more {
		if parsed.AppsRaw[name] != nil {
			apps[name] = parsed.AppsRaw[name]
		}
	}
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		StorageRaw: parsed.StorageRaw,
		AppsRaw:    apps,
		// What a command has to say it returns.
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}}}},
	})
	if err != nil {
		return nil, err
	}
	app, err := ctx.App("registry")
	if err != nil {
		return nil, err
	}
	return app.(*App), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
