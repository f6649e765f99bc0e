package caddymodule

import (
	"net/http"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/distribution"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// auditChange writes an audit line about content that was pushed, overwritten or deleted.
func (a *App) auditChange(r *http.Request, change distribution.Change) {
	user := "anonymous"
	if caller, ok := caddyhttp.GetVar(r.Context(), varCaller).(*authn.Caller); ok {
		user = caller.String()
	}
	a.audit.InfoContext(r.Context(), string(change.Kind), "user", user, "address", clientAddress(r),
		"repository", change.Repository, "tag", change.Tag, "digest", change.Digest.String(), "previous", change.Previous.String())
}
