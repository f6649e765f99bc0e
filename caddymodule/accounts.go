package caddymodule

import (
	"context"
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

// askProviders begins to ask the identity providers about their people, each as often as
// its configuration says. One that cannot be reached keeps nobody from starting.
func (a *App) askProviders(ctx context.Context, accounts *storage.Accounts, sealer *authn.Sealer) {
	type client struct{ issuer, id string }
	asked := make(map[client]bool) // several sites may have one provider
	for _, auth := range a.auths {
		for _, provider := range auth.site.Providers {
			is := client{provider.Issuer(), provider.ClientID()}
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
