package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"
)

// Paths by which others ask how a registry is: whether the process answers, and whether
// it can serve.
const (
	livePath  = "/livez"
	readyPath = "/readyz"
)

// healthTimeout is how long storage may take to be read: one that does not answer cannot be.
const healthTimeout = 3 * time.Second

// health is what /readyz tells. It is open to all, so that why something is degraded is in
// the log.
type health struct {
	// Status is ready, or degraded if something in Degraded is, or unavailable if nothing
	// can be served.
	Status   string        `json:"status"`
	Degraded []degradation `json:"degraded"`
}

// degradation is something that does not work as it should.
type degradation struct {
	Name   string `json:"name"` // of what: storage, an upstream or an identity provider
	Reason string `json:"reason"`
}

// serveHealth answers the paths of health, and reports whether it did.
func (a *App) serveHealth(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != livePath && r.URL.Path != readyPath {
		return false
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return true
	}
	if r.URL.Path == livePath {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "ok\n")
		return true
	}
	found := a.health(r.Context())
	w.Header().Set("Content-Type", "application/json")
	if found.Status == "unavailable" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(found)
	return true
}

// health tells what does not work. What is local is served whatever becomes of others, so
// only storage makes it unavailable.
func (a *App) health(ctx context.Context) health {
	found := health{Status: "ready", Degraded: []degradation{}}
	problem, err := a.storageHealth(ctx)
	if err != nil {
		found.Status = "unavailable"
		problem = "cannot be read"
		a.logger.Error("storage cannot be read", zap.Error(err))
	}
	if problem != "" {
		found.Degraded = append(found.Degraded, degradation{"storage", problem})
	}
	found.Degraded = append(found.Degraded, a.upstreamHealth()...)
	found.Degraded = append(found.Degraded, a.providerHealth(ctx)...)
	if len(found.Degraded) > 0 && err == nil {
		found.Status = "degraded"
	}
	return found
}

// littleSpace is how much room less than which a push may not find.
const littleSpace = 1 << 30

// storageHealth tells what is wrong with storage that can be read, and otherwise why not.
func (a *App) storageHealth(ctx context.Context) (problem string, err error) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	opened, err := a.open()
	if err != nil {
		return "", err
	}
	if err := opened.registry.Check(ctx); err != nil {
		return "", err
	}
	damaged, err := opened.registry.Damaged(ctx)
	if err != nil {
		return "", err
	}
	moving, err := opened.registry.Moving(ctx)
	if err != nil {
		return "", err
	}
	space, bounded, err := opened.registry.Space()
	switch {
	case err != nil:
		return "", err
	case bounded && space.Free < min(littleSpace, space.Total/50):
		return "nearly full: " + humanize.IBytes(uint64(space.Free)) + " are left", nil
	case moving:
		return "is being moved: pushes are refused", nil
	case damaged > 0:
		return fmt.Sprintf("%s damaged and not served: see registry verify", counted(damaged, "blob")), nil
	}
	return "", nil
}

// upstreamHealth tells which upstreams do not answer. Sites may have one of the same name.
func (a *App) upstreamHealth() []degradation {
	var found []degradation
	told := make(map[string]bool)
	for _, cache := range a.caches {
		for _, client := range cache.clients {
			name := "upstream " + client.Name()
			if told[name] {
				continue
			}
			switch {
			case client.Down():
				found = append(found, degradation{name, "does not answer; what is cached is served"})
			case client.Paused() != nil:
				found = append(found, degradation{name, "gives no more for a while; what is cached is served"})
			default:
				continue
			}
			told[name] = true
		}
	}
	return found
}

// providerTimeout is how long it is waited for an identity provider that never was reached.
const providerTimeout = time.Second

func (a *App) providerHealth(ctx context.Context) []degradation {
	ctx, cancel := context.WithTimeout(ctx, providerTimeout)
	defer cancel()
	var found []degradation
	told := make(map[string]bool)
	for _, auth := range a.auths {
		for i := range auth.site.Providers {
			provider := &auth.site.Providers[i]
			name := "identity provider " + provider.Name()
			if told[name] || provider.Discover(ctx) == nil {
				continue
			}
			told[name] = true
			found = append(found, degradation{name, "cannot be used; who is signed in stays so, and keys work"})
		}
	}
	return found
}
