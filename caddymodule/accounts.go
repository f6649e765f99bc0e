package caddymodule

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/storage"
)

const (
	flushInterval  = 10 * time.Second // how often it is written when keys were used
	forgetInterval = time.Hour        // how often ended sessions and keys are looked for
)

// keepAccounts writes when keys were used, and forgets sessions and keys that ended.
func (a *App) keepAccounts(ctx context.Context, accounts *storage.Accounts) {
	flush, forget := time.NewTicker(flushInterval), time.NewTicker(forgetInterval)
	defer flush.Stop()
	defer forget.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-flush.C:
			err = accounts.FlushUsed(ctx)
		case now := <-forget.C:
			err = accounts.ExpireAccounts(ctx, now)
		}
		if err != nil && ctx.Err() == nil {
			a.logger.Error("looking after sessions and API keys", zap.Error(err))
		}
	}
}

// guests returns the versions of the providers whose people are somebody on a site where nobody signs in: those
// who sign in on the server's other sites. If those have not all the same providers it is
// nobody, since the name or group of one could be taken for another's.
func (a *App) guests(site *Auth) ([]string, error) {
	var guests []string
	if len(site.site.Providers) > 0 {
		return nil, nil
	}
	for _, auth := range a.auths {
		var versions []string
		for _, provider := range auth.site.Providers {
			versions = append(versions, provider.Version())
		}
		slices.Sort(versions)
		switch {
		case versions == nil:
		case guests == nil:
			guests = versions
		case !slices.Equal(guests, versions):
			return nil, errProvidersDiffer
		}
	}
	return guests, nil
}

var errProvidersDiffer = errors.New("a site has no oidc, and the others have different ones: nobody who signed in there is somebody here, nor are their keys")

// askProviders begins to ask the identity providers about their people, each as often as
// its configuration says. One that cannot be reached keeps nobody from starting.
func (a *App) askProviders(ctx context.Context, accounts *storage.Accounts, sealer *authn.Sealer) {
	type client struct{ version, id string }
	asked := make(map[client]bool) // several sites may have one provider
	for _, auth := range a.auths {
		for _, provider := range auth.site.Providers {
			is := client{provider.Version(), provider.ClientID()}
			if asked[is] {
				continue
			}
			asked[is] = true
			a.running.Go(func() {
				_ = provider.Discover(ctx) // which logs why that cannot be done
				refresher := authn.Refresher{Accounts: accounts, Sealer: sealer, Provider: provider, Log: a.slogger, Audit: a.audit}
				refresher.Run(ctx)
			})
		}
	}
}
