package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("registry", parseGlobalOption)
	httpcaddyfile.RegisterHandlerDirective("registry_auth", parseAuth)
	httpcaddyfile.RegisterHandlerDirective("registry_cache", parseCache)
	httpcaddyfile.RegisterHandlerDirective("registry_ui", parseUI)
	httpcaddyfile.RegisterHandlerDirective("registry", parseHandler)
	// Before blocks of handlers too, since it guards what is in them, as Caddy's own
	// basic_auth does.
	httpcaddyfile.RegisterDirectiveOrder("registry_auth", httpcaddyfile.Before, "invoke")
	// Each goes right before respond, behind those that went there already.
	for _, directive := range []string{"registry_cache", "registry_ui", "registry"} {
		httpcaddyfile.RegisterDirectiveOrder(directive, httpcaddyfile.Before, "respond")
	}
}

// parseGlobalOption sets up the app from the global option registry.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		return nil, d.Err("registry is configured already")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "registry", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	registry {
//		storage       <module> ...
//		database      <module> ...
//		sparse        on|index|off
//		upload_expiry <duration>
//		gc {
//			interval <duration>
//			delay    <duration>
//			untagged <duration>
//		}
//		retention <globs...> { # any number, the first that matches decides
//			keep_tags          <globs...>
//			keep_last          <count>
//			keep_pulled_within <duration>
//		}
//		quota <globs...> <size> # any number
//		scrub {
//			interval <duration>
//			rate     <size> # that is read in a second
//		}
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.ArgErr()
	}
	return unmarshalOptions(d, func(option string) (err error) {
		switch option {
		case "storage":
			a.StorageRaw, err = unmarshalGuest(d, "registry.storage.")
		case "database":
			a.DatabaseRaw, err = unmarshalGuest(d, "registry.database.")
		case "sparse":
			if !d.AllArgs(&a.Sparse) {
				return d.ArgErr()
			}
			if err := checkSparse(a.Sparse); err != nil {
				return d.WrapErr(err)
			}
		case "upload_expiry":
			err = a.UploadExpiry.UnmarshalCaddyfile(d)
		case "gc":
			err = a.GC.UnmarshalCaddyfile(d)
		case "retention":
			var rule Retention
			err = rule.UnmarshalCaddyfile(d)
			a.Retention = append(a.Retention, rule)
		case "quota":
			var quota Quota
			err = quota.UnmarshalCaddyfile(d)
			a.Quotas = append(a.Quotas, quota)
		case "scrub":
			a.Scrub = new(Scrub)
			err = a.Scrub.UnmarshalCaddyfile(d)
		default:
			err = d.Errf("unrecognized option %q", option)
		}
		return err
	}, "retention", "quota")
}

// unmarshalGuest reads the module that an option names.
func unmarshalGuest(d *caddyfile.Dispenser, namespace string) ([]byte, error) {
	if !d.NextArg() {
		return nil, d.ArgErr()
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, namespace+name)
	if err != nil {
		return nil, err
	}
	return caddyconfig.JSONModuleObject(module, "module", name, nil), nil
}

func parseAuth(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	auth := new(Auth)
	return auth, auth.UnmarshalCaddyfile(h.Dispenser)
}

func parseCache(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	cache := new(Cache)
	return cache, cache.UnmarshalCaddyfile(h.Dispenser)
}

func parseUI(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	ui := new(UI)
	return ui, ui.UnmarshalCaddyfile(h.Dispenser)
}

func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	registry [<matcher>]
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	return noMore(d)
}
