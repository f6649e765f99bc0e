package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/storage"
)

// tagPage is how many tags a command is told of at a time.
const tagPage = 1000

// tagList is some of a repository's tags, or of what they were.
type tagList struct {
	Tags []storage.Tag `json:"tags"`
	Next string        `json:"next"` // what to ask for next; empty: there are no more
}

// addTagControl lets commands list tags, refresh and restore them.
func (o *openRegistry) addTagControl(mux *http.ServeMux, audit *slog.Logger) {
	mux.HandleFunc("GET /tags", func(w http.ResponseWriter, r *http.Request) {
		tags, err := o.registry.DescribeTags(r.Context(), r.FormValue("repository"), r.FormValue("last"), tagPage)
		list := tagList{Tags: tags}
		if len(tags) == tagPage {
			list.Next = tags[len(tags)-1].Name
		}
		answerControl(w, list, err)
	})
	mux.HandleFunc("GET /tags/history", func(w http.ResponseWriter, r *http.Request) {
		last, err := strconv.ParseInt("0"+r.FormValue("last"), 10, 64)
		if err != nil {
			answerControl(w, nil, fmt.Errorf("last: %w", err))
			return
		}
		tags, next, err := o.registry.TagHistory(r.Context(), r.FormValue("repository"), last, tagPage)
		list := tagList{Tags: tags}
		if len(tags) == tagPage {
			list.Next = strconv.FormatInt(next, 10)
		}
		answerControl(w, list, err)
	})
	mux.HandleFunc("POST /refresh", func(w http.ResponseWriter, r *http.Request) {
		tag := r.FormValue("tag")
		var found refreshed
		err := storage.CheckTag(tag)
		if err == nil {
			found, err = o.refresh(r.Context(), r.FormValue("repository"), tag)
		}
		answerControl(w, found, err)
	})
	mux.HandleFunc("PUT /tags", func(w http.ResponseWriter, r *http.Request) {
		repository, tag := r.FormValue("repository"), r.FormValue("tag")
		d, err := storage.ParseDigest(r.FormValue("digest"))
		if err == nil {
			err = storage.CheckTag(tag)
		}
		var change *storage.TagChange
		if err == nil {
			change, err = o.registry.RestoreTag(r.Context(), repository, tag, d)
		}
		if change != nil {
			kind := distribution.Pushed
			if change.Previous != "" {
				kind = distribution.Overwritten
			}
			audit.InfoContext(r.Context(), string(kind), "repository", repository, "tag", tag, "digest", d.String(),
				"previous", change.Previous.String(), "by", "command")
		}
		answerControl(w, struct{}{}, err)
	})
}

// refresh asks the upstream of a copy what a tag names now.
func (o *openRegistry) refresh(ctx context.Context, repository, tag string) (found refreshed, err error) {
	cache, mapped, err := o.cacheOf(repository)
	if err != nil {
		return found, err
	}
	found.Is, found.Was, err = cache.Refresh(ctx, mapped, tag)
	return found, err
}
