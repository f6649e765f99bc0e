package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/spf13/cobra"

	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream"
)

var (
	errNoKeyID  = errors.New("the ID of a key is needed; registry apikey list shows them")
	errNoPolicy = errors.New("no site of the configuration has registry_auth, so that everybody may do everything")
)

func canCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "can USER|anonymous [--group GROUP]... ACTION REPOSITORY[:TAG]",
		Short: "Tells whether somebody may do something, and which line of a policy decides",
		Long: `
Tells whether a user, in the groups that are given, may read, create, update or delete,
and prints the line of the policy that decides. The exit code is 0 if so, else 1. Only
the configuration is asked: neither who there is nor what is stored.`,
		Args: cobra.ExactArgs(3),
	}
	groups := cmd.Flags().StringArray("group", nil, "Group of the user; may be repeated")
	host := cmd.Flags().String("site", "", "Host name of the site, if several have policies")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file, err := cmd.Flags().GetString("config")
		if err != nil {
			return err
		}
		config, err := loadConfig(file)
		if err != nil {
			return err
		}
		site, err := findGuarded(config, *host)
		if err != nil {
			return err
		}
		var who *authz.Identity
		if args[0] != "anonymous" {
			who = &authz.Identity{Name: args[0], Groups: *groups}
		}
		allowed, reason, err := site.decide(who, args[1], args[2])
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), reason)
		if !allowed {
			return errDenied
		}
		return nil
	}
	return cmd
}

// errDenied makes a command fail that has printed why.
var errDenied = errors.New("denied")

// guarded is a site whose requests are decided by policies.
type guarded struct {
	server string
	hosts  []string // none: all
	auth   *Auth
	cache  *Cache // nil if it has none
}

func (g *guarded) String() string {
	if len(g.hosts) == 0 {
		return "the one for all hosts"
	}
	return strings.Join(g.hosts, ", ")
}

// decide tells whether who may do something, with the reason in words.
func (g *guarded) decide(who *authz.Identity, word, target string) (allowed bool, reason string, err error) {
	action, err := authz.ParseAction(word)
	if err != nil {
		return false, "", err
	}
	name, tag, err := splitTarget(target, action)
	if err != nil {
		return false, "", err
	}
	policies, err := resolvePolicies(g.auth.Policies)
	if err != nil {
		return false, "", err
	}
	repository, err := g.mapName(name, action)
	if err != nil {
		return false, err.Error(), nil
	}
	decision := policies.Decide(who, action, repository, tag)
	return decision.Allowed, decision.String(), nil
}

// splitTarget returns the repository and the tag that an action is about, as the server has
// it: what is deleted by digest, or whole, goes from under all tags, and anything else that
// names no tag is about some tag.
func splitTarget(target string, action authz.Action) (name, tag string, err error) {
	name, reference, err := splitReference(target)
	if err != nil {
		return "", "", err
	}
	if err := storage.CheckName(name); err != nil {
		return "", "", err
	}
	if reference != "" {
		ref, err := storage.ParseReference(reference)
		if err != nil {
			return "", "", err
		}
		tag = ref.Tag
	}
	if tag == "" && action != authz.Delete {
		tag = authz.AnyTag
	}
	return name, tag, nil
}

// mapName returns the repository that a name means if it is an upstream's or this
// registry's own, or why nobody may do that to it.
func (g *guarded) mapName(name string, action authz.Action) (string, error) {
	isPush := action&authz.Push != 0
	if isPush {
		if err := distribution.CheckPush(name); err != nil {
			return "", err
		}
	}
	if g.cache == nil {
		return name, nil
	}
	names := upstream.Names{Upstreams: g.cache.upstreamNames(), Default: g.cache.Default}
	if isPush {
		return names.MapPush(name, "", "")
	}
	mapped, err := names.Map(name, "", "", func(string) (bool, error) { return true, nil })
	return mapped.Repository, err
}

// findGuarded returns the site of a configuration that has a host, or the only one, or any
// if they are all alike, as one that has a port without TLS too.
func findGuarded(config *caddy.Config, host string) (*guarded, error) {
	sites, err := guardedSites(config)
	if err != nil {
		return nil, err
	}
	if host != "" {
		for _, site := range sites {
			if slices.Contains(site.hosts, host) {
				return site, nil
			}
		}
		return nil, fmt.Errorf("--site %s: no site of that host has registry_auth", host)
	}
	if len(sites) == 0 {
		return nil, errNoPolicy
	}
	if !slices.ContainsFunc(sites, func(s *guarded) bool { return !s.decidesAs(sites[0]) }) {
		return sites[0], nil
	}
	var all []string
	for _, site := range sites {
		all = append(all, site.String())
	}
	return nil, fmt.Errorf("several sites have registry_auth, name one with --site: %s", strings.Join(all, "; "))
}

// guardedSites returns the sites of a configuration that have policies.
func guardedSites(config *caddy.Config) ([]*guarded, error) {
	raw := config.AppsRaw["http"]
	if raw == nil {
		return nil, nil
	}
	var app caddyhttp.App
	if err := json.Unmarshal(raw, &app); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	var sites []*guarded
	for name, server := range app.Servers {
		for _, route := range server.Routes {
			hosts, err := hostsOf(route)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(sites, func(s *guarded) bool { return s.server == name && slices.Equal(s.hosts, hosts) })
			if i < 0 {
				i, sites = len(sites), append(sites, &guarded{server: name, hosts: hosts})
			}
			if err := sites[i].collect(route.HandlersRaw); err != nil {
				return nil, err
			}
		}
	}
	return slices.DeleteFunc(sites, func(s *guarded) bool { return s.auth == nil }), nil
}

// decidesAs reports whether two sites are configured to decide alike.
func (g *guarded) decidesAs(other *guarded) bool {
	return reflect.DeepEqual(g.auth, other.auth) && reflect.DeepEqual(g.cache, other.cache)
}

func hostsOf(route caddyhttp.Route) ([]string, error) {
	var hosts []string
	for _, set := range route.MatcherSetsRaw {
		if raw := set["host"]; raw != nil {
			var some []string
			if err := json.Unmarshal(raw, &some); err != nil {
				return nil, fmt.Errorf("configuration: host: %w", err)
			}
			hosts = append(hosts, some...)
		}
	}
	return hosts, nil
}

// collect finds the registry's handlers among some and those that are in them.
func (g *guarded) collect(handlers []json.RawMessage) error {
	for _, raw := range handlers {
		var handler struct {
			Name   string              `json:"handler"`
			Routes caddyhttp.RouteList `json:"routes"`
		}
		if err := json.Unmarshal(raw, &handler); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
		var err error
		switch handler.Name {
		case "registry_auth":
			g.auth = new(Auth)
			err = json.Unmarshal(raw, g.auth)
		case "registry_cache":
			g.cache = new(Cache)
			err = json.Unmarshal(raw, g.cache)
		}
		if err != nil {
			return fmt.Errorf("configuration: %s: %w", handler.Name, err)
		}
		for _, route := range handler.Routes {
			if err := g.collect(route.HandlersRaw); err != nil {
				return err
			}
		}
	}
	return nil
}
