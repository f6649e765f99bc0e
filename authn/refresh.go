package authn

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/storage"
)

const (
	refreshBatch    = 100         // people at a time
	refreshParallel = 4           // requests to one provider at a time
	refreshTimeout  = time.Minute // over all requests to it
)

// Refresher asks an identity provider again about the people who signed in there: what
// groups they are in by now, and whether it still vouches for them.
type Refresher struct {
	Accounts *storage.Accounts
	Sealer   *Sealer
	Provider Provider
	Log      *slog.Logger
	Audit    *slog.Logger
}

// Run refreshes until the context is done. A person is asked about a little more often
// than every Refresh, so that it never takes longer until a change is known.
func (f *Refresher) Run(ctx context.Context) {
	ticker := time.NewTicker(max(f.Provider.Refresh/20, 100*time.Millisecond))
	defer ticker.Stop()
	for {
		if err := f.refreshDue(ctx); err != nil && ctx.Err() == nil {
			f.Log.ErrorContext(ctx, "asking about people again", "provider", f.Provider.Name(), "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// refreshDue asks about all for whom it is time.
func (f *Refresher) refreshDue(ctx context.Context) error {
	for {
		now := time.Now()
		due, err := f.Accounts.PeopleToRefresh(ctx, f.Provider.Version(), f.Provider.ClientID(), now.Add(-f.Provider.Refresh*8/10), now, refreshBatch)
		if err != nil || len(due) == 0 {
			return err
		}
		var group errgroup.Group
		group.SetLimit(refreshParallel)
		for _, person := range due {
			group.Go(func() error {
				if ctx.Err() != nil {
					return nil
				}
				err := f.refresh(ctx, person, now)
				if errors.Is(err, storage.ErrTooOld) {
					return nil // what is known is newer
				}
				return err
			})
		}
		if err := group.Wait(); err != nil || len(due) < refreshBatch {
			return err
		}
	}
}

// refresh asks about one person, unless another process does. An answer that is anything
// but a clear no changes nothing: a provider that is down ends nobody's work.
func (f *Refresher) refresh(ctx context.Context, person storage.Person, now time.Time) error {
	// A provider may give a refresh token for each answer and take none twice. So once it
	// is asked its answer is waited for and kept, also if this configuration ends meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshTimeout)
	defer cancel()
	mine, err := f.Accounts.BeginRefresh(ctx, person, now)
	if err != nil || !mine {
		return err
	}
	token, err := f.Sealer.Open(person.RefreshToken, forRefresh)
	if err != nil {
		f.Log.WarnContext(ctx, "a refresh token is lost: groups are those of the last sign-in", "user", person.Name, "error", err)
		return f.Accounts.ForgetRefresh(ctx, person.ID, now)
	}
	login, err := f.Provider.Provider.Refresh(ctx, string(token), person.Subject)
	switch {
	case errors.Is(err, oidc.ErrEnded):
		keys, err := f.Accounts.EndPerson(ctx, person.ID, now)
		if err == nil {
			f.Audit.InfoContext(ctx, "person_ended", "user", person.Name, "provider", f.Provider.Name(), "keys", keys)
		}
		return err
	case err != nil:
		f.Log.WarnContext(ctx, "the identity provider does not answer about a person", "user", person.Name, "provider", f.Provider.Name(), "error", err)
		if login == nil || login.RefreshToken == "" {
			return nil
		}
		// The next time the one that was sent would be refused, as if the person were.
		return f.Accounts.ReplaceRefreshToken(ctx, person.ID, now, f.Sealer.sealText(login.RefreshToken, forRefresh))
	}
	return f.Accounts.FinishRefresh(ctx, person.ID, now, login.Name, login.Groups, f.Sealer.sealText(login.RefreshToken, forRefresh))
}
