package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMessagesSayWhatTheUpstreamSaid(t *testing.T) {
	url, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		answerWith(`{"errors":[{"code":"DENIED","message":"line one\nline two\u001b[31m`+strings.Repeat("é", 1000)+`"}]}`)(w, nil)
	})
	err := pull(t, clientOf(t, Config{}, url))
	wantKind(t, err, ErrDenied)
	message := err.Error()
	if !strings.Contains(message, "DENIED: line one line two [31mé") || len(message) > 700 || !utf8.ValidString(message) {
		t.Errorf("%q", message)
	}
}

func TestMessagesNameTheServerThatAnswered(t *testing.T) {
	storage, _ := serve(t, status(http.StatusForbidden))
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, storage, http.StatusTemporaryRedirect)
	})
	err := pull(t, clientOf(t, Config{}, url))
	wantKind(t, err, ErrDenied)
	if host := func(url string) string { return strings.TrimPrefix(url, "http://") }; !strings.Contains(err.Error(), host(storage)+", to which "+host(url)+" leads, answered 403") {
		t.Error(err)
	}
}

func TestMostTellingErrorWrapsOneSentinel(t *testing.T) {
	e := &endpoint{upstream: "up.test"}
	for _, first := range kinds {
		for _, second := range kinds {
			want := second
			if second == ErrNotFound || second == ErrDenied && first != ErrNotFound {
				want = first
			}
			err := mostTelling([]error{e.fail(first, "a"), e.fail(second, "b")})
			wantKind(t, err, want)
			if !strings.Contains(err.Error(), "up.test: a") || !strings.Contains(err.Error(), "up.test: b") {
				t.Errorf("%v and %v: %v", first, second, err)
			}
		}
	}
	var limited *RateLimitError
	if err := mostTelling([]error{e.fail(ErrNotFound, "a"), e.rateLimited(7, "b")}); !errors.As(err, &limited) || limited.RetryAfter != 7 {
		t.Errorf("%v lost its type", err)
	}
}
