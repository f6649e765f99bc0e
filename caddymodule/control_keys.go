package caddymodule

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/storage"
)

// keyOrder asks for a new API key.
type keyOrder struct {
	User     string        `json:"user"`
	Groups   []string      `json:"groups"`
	Label    string        `json:"label"`
	Scopes   []string      `json:"scopes"`
	Lifetime time.Duration `json:"lifetime"`
}

// newKey is an API key that was just made.
type newKey struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// addKeyControl lets commands make, list and revoke API keys.
func addKeyControl(mux *http.ServeMux, accounts *storage.Accounts, audit *slog.Logger) {
	mux.HandleFunc("POST /keys", func(w http.ResponseWriter, r *http.Request) {
		var order keyOrder
		if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
			answerControl(w, nil, fmt.Errorf("order of a key: %w", err))
			return
		}
		key, text, err := authn.AddKey(r.Context(), accounts, storage.APIKey{
			Owner: order.User, Groups: order.Groups, Label: order.Label, Scopes: order.Scopes, Lifetime: order.Lifetime,
		})
		if err == nil {
			audit.InfoContext(r.Context(), "key_made", "user", key.Owner, "groups", key.Groups, "key", key.ID, "label", key.Label,
				"scopes", key.Scopes, "expires", key.Expires, "by", "command")
		}
		answerControl(w, newKey{key.ID, text}, err)
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) {
		keys, err := accounts.Keys(r.Context())
		answerControl(w, keys, err)
	})
	mux.HandleFunc("DELETE /keys/{id}", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		err := accounts.RevokeKey(r.Context(), id)
		if err == nil {
			audit.InfoContext(r.Context(), "key_revoked", "key", id, "by", "command")
		}
		answerControl(w, struct{}{}, err)
	})
}
