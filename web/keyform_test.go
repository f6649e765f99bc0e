package web_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/web"
)

func TestAChosenDayCountsToItsEnd(t *testing.T) {
	for text, want := range map[string]time.Time{
		"":           {},
		"2027-01-31": time.Date(2027, 1, 31, 23, 59, 59, 0, time.UTC),
		"2028-02-29": time.Date(2028, 2, 29, 23, 59, 59, 0, time.UTC),
		"2026-12-31": time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		if got, err := (web.KeyForm{Expires: text}).Until(); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

func TestWhatIsNoDayIsRefused(t *testing.T) {
	for _, text := range []string{"2027-02-29", "2027-13-01", "31.1.2027", "2027-1-31", "20270131", " 2027-01-31", "2027-01-31T00:00:00Z", "tomorrow", "-001-01-01"} {
		_, err := web.KeyForm{Expires: text}.Until()
		if err == nil || !strings.Contains(err.Error(), "must be as 2027-01-31") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestScopesAreOneOnEachLine(t *testing.T) {
	for text, want := range map[string][]string{
		"":                               nil,
		" \r\n\t\n":                      nil,
		"read:a/**":                      {"read:a/**"},
		" read:a\r\n\r\n\tcreate:b \r\n": {"read:a", "create:b"},
		"read:a create:b":                {"read:a create:b"},
	} {
		if got := (web.KeyForm{Scopes: text}).ScopeList(); !slices.Equal(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func FuzzKeyForm(f *testing.F) {
	f.Add("2027-01-31", "read:a\r\ncreate:b/**\n")
	f.Add("2027-02-30", "\n \n")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, expires, scopes string) {
		form := web.KeyForm{Expires: expires, Scopes: scopes}
		if until, err := form.Until(); err == nil && expires != "" {
			if until.Format(time.DateOnly) != expires || until.Add(time.Second).Format(time.DateOnly) == expires {
				t.Errorf("%q is %s", expires, until)
			}
		}
		list := form.ScopeList()
		for _, scope := range list {
			if scope == "" || scope != strings.TrimSpace(scope) || strings.Contains(scope, "\n") {
				t.Errorf("%q has the scope %q", scopes, scope)
			}
		}
		if again := (web.KeyForm{Scopes: strings.Join(list, "\r\n")}).ScopeList(); !slices.Equal(again, list) {
			t.Errorf("%q becomes %q", list, again)
		}
	})
}
