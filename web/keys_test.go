package web_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/web"
)

// row returns the row of a key, and whether it is among those that work.
func row(t *testing.T, d document, id string) (found *html.Node, live bool) {
	t.Helper()
	for table := range d.all("table") {
		for tr := range elements(table, "tr") {
			for code := range elements(tr, "code") {
				if attr(code, "title") == id {
					return tr, !strings.Contains(text(table), "have ended")
				}
			}
		}
	}
	t.Fatalf("no row is of %s", id)
	return nil, false
}

// cell returns what a row says in a column.
func cell(row *html.Node, column string) string {
	for td := range elements(row, "td") {
		if attr(td, "data-title") == column {
			return text(td)
		}
	}
	return ""
}

func TestEachKeyTellsHowItDoes(t *testing.T) {
	left := func(d time.Duration) web.Key { return web.Key{ID: "x", Created: now, Expires: now.Add(d)} }
	for _, test := range []struct {
		key  web.Key
		live bool
		soon bool
		want string
	}{
		{forgejo, true, false, "50 days left 3 May 2026"},
		{left(90*day - time.Second), true, false, "90 days left 12 Jun 2026"},
		{left(14*day + time.Second), true, false, "14 days left 28 Mar 2026"},
		{left(14 * day), true, true, "14 days left 28 Mar 2026"},
		{left(2 * day), true, true, "2 days left 16 Mar 2026"},
		{left(47 * time.Hour), true, true, "47 hours left 16 Mar 2026"},
		{left(time.Hour), true, true, "1 hour left 14 Mar 2026"},
		{left(59*time.Minute + 29*time.Second), true, true, "59 minutes left 14 Mar 2026"},
		{left(time.Minute), true, true, "1 minute left 14 Mar 2026"},
		{left(time.Second), true, true, "less than a minute left 14 Mar 2026"},
		{left(0), false, false, "expired 14 Mar 2026"},
		{rotated, true, true, "22 hours left 15 Mar 2026 rotated to 0d1e2f3a"},
		{old, false, false, "expired 4 Dec 2025"},
		{leaked, false, false, "revoked 12 Mar 2026"},
		{imported, true, false, "never"},
	} {
		tr, live := row(t, show(t, keys(keysPage(test.key))), test.key.ID)
		column := "Expires"
		if !test.live {
			column = "Ended"
		}
		soon := false
		for span := range elements(tr, "span") {
			soon = soon || slices.Contains(strings.Fields(attr(span, "class")), "soon")
		}
		if got := cell(tr, column); got != test.want || live != test.live || soon != test.soon {
			t.Errorf("%+v: %q, works %v, soon %v", test.key, got, live, soon)
		}
		changes := len(slices.Collect(elements(tr, "form")))
		if test.live != (changes == 2) {
			t.Errorf("%s: %d forms", test.want, changes)
		}
	}
}

func TestAKeyTellsWhatItMayAndWhenItWasUsed(t *testing.T) {
	d := show(t, keys(keysPage(forgejo, laptop, rotated)))
	tr, _ := row(t, d, forgejo.ID)
	for column, want := range map[string]string{"Scopes": "read:**create:**", "Created": "2 Feb 2026", "Last used": "13 Mar 2026"} {
		if got := cell(tr, column); got != want {
			t.Errorf("%s: %q", column, got)
		}
	}
	tr, _ = row(t, d, rotated.ID)
	if cell(tr, "Scopes") != "everything you may do" || cell(tr, "Last used") != "never" {
		t.Errorf("%q, %q", cell(tr, "Scopes"), cell(tr, "Last used"))
	}
	// Many scopes are folded, and all there.
	tr, _ = row(t, d, laptop.ID)
	if got := cell(tr, "Scopes"); got != "6 scopesread:aread:bread:cread:dread:eread:f" {
		t.Errorf("%q", got)
	}
}

func TestTimesAreThoseOfTheKeyInUTC(t *testing.T) {
	key := forgejo
	key.Created = time.Date(2026, 1, 1, 1, 30, 0, 0, time.FixedZone("", 2*3600))
	tr, _ := row(t, show(t, keys(keysPage(key))), key.ID)
	for n := range elements(tr, "time") {
		if text(n) == "31 Dec 2025" && attr(n, "datetime") == "2025-12-31T23:30:00Z" && attr(n, "title") == "31 Dec 2025, 23:30 UTC" {
			return
		}
	}
	t.Errorf("created %q", cell(tr, "Created"))
}

func TestTheSecretIsOnlyWhereItIsCopiedFrom(t *testing.T) {
	p := keysPage(forgejo)
	p.New = &web.NewKey{Label: "forgejo", Secret: secret, Expires: now.Add(90 * day)}
	d := show(t, keys(p))
	input := d.byID("new-key")
	if attr(input, "value") != secret || strings.Count(d.source, secret) != 1 {
		t.Errorf("%v; %d times on the page", input.Attr, strings.Count(d.source, secret))
	}
	if attr(input, "type") != "text" || attr(input, "autocomplete") != "off" {
		t.Errorf("%v", input.Attr)
	}
	if _, named := lookup(input, "name"); named {
		t.Error("a form could send the key")
	}
	d.wants(t, "Your new key: forgejo", "it is not shown again", "works until 12 Jun 2026, 15:09 UTC.")
	d.lacks(t, "The old one works until")
	for what, id := range map[string]string{"data-copy": "Copy", "data-show": "Show"} {
		found := false
		for button := range d.all("button") {
			found = found || attr(button, what) == "new-key" && text(button) == id
		}
		if !found {
			t.Errorf("nothing has %s", what)
		}
	}
}

func TestARotatedKeysEndIsTold(t *testing.T) {
	p := keysPage(rotated)
	p.New = &web.NewKey{Secret: secret, Expires: now.Add(90 * day), OldEnds: now.Add(day)}
	show(t, keys(p)).wants(t, "The old one works until 15 Mar 2026, 15:09 UTC.", "The old one works for 24 hours more.")
	p.Grace = 0
	show(t, keys(p)).wants(t, "The old one ends at once.")
}

// TestCommandsCanBePasted checks that no name makes another command of them.
func TestCommandsCanBePasted(t *testing.T) {
	for _, test := range []struct{ host, user, docker, skopeo string }{
		{"registry.example:5050", "ci@example.com", "docker login registry.example:5050 -u ci@example.com", `skopeo copy --dest-creds=ci@example.com:"$API_KEY" oci:./app docker://registry.example:5050/team/app:v1`},
		{"x;id", "$(id) o'clock", `docker login 'x;id' -u '$(id) o'\''clock'`, `skopeo copy --dest-creds='$(id) o'\''clock':"$API_KEY" oci:./app 'docker://x;id/team/app:v1'`},
		{"x", "a\nb", "docker login x -u 'a\nb'", "skopeo copy --dest-creds='a\nb'" + `:"$API_KEY" oci:./app docker://x/team/app:v1`},
		{"x", "", "docker login x -u ''", `skopeo copy --dest-creds='':"$API_KEY" oci:./app docker://x/team/app:v1`},
	} {
		p := keysPage()
		p.Host, p.User = test.host, test.user
		p.New = &web.NewKey{Secret: secret}
		d := show(t, keys(p))
		if docker, skopeo := content(d.byID("command-docker")), content(d.byID("command-skopeo")); docker != test.docker || skopeo != test.skopeo {
			t.Errorf("%s\n%s", docker, skopeo)
		}
	}
}

func TestAKeyMakesNoOthers(t *testing.T) {
	p := keysPage(forgejo)
	p.MayCreate = false
	d := show(t, keys(p))
	d.wants(t, "This key", "sign out and sign in as a person")
	d.lacks(t, "Generate", "Your keys")
	formOf(t, d, "Rotate the key forgejo 3f2b8c1e")
}

func TestTheUsualLifetimeIsVisible(t *testing.T) {
	d := show(t, keys(keysPage()))
	d.wants(t, "You have no API key that works.", "Leave it empty for 90 days, until 12 Jun 2026. The latest is 13 Mar 2027.")
	expires := d.byID("expires")
	if attr(expires, "type") != "date" || attr(expires, "value") != "" || attr(expires, "min") != "2026-03-14" || attr(expires, "max") != "2027-03-13" {
		t.Errorf("%v", expires.Attr)
	}
	p := keysPage()
	p.Lifetime, p.MaxLifetime = 12*time.Hour, 12*time.Hour
	d = show(t, keys(p))
	d.wants(t, "The key works for 12 hours.")
	if d.byID("expires") != nil {
		t.Error("a day can be chosen that is too late")
	}
}

// TestEveryDayThatIsOfferedIsAllowed: a day counts to its end, which must not be later
// than the longest lifetime, whatever the time of day and zone.
func TestEveryDayThatIsOfferedIsAllowed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := keysPage()
		zone := time.FixedZone("", rapid.IntRange(-14*3600, 14*3600).Draw(rt, "zone"))
		p.Now = time.Unix(rapid.Int64Range(0, 4e9).Draw(rt, "now"), 0).In(zone)
		p.MaxLifetime = time.Duration(rapid.IntRange(1, 20_000).Draw(rt, "hours")) * time.Hour
		expires := show(rt, keys(p)).byID("expires")
		if expires == nil {
			if p.MaxLifetime >= day {
				rt.Fatal("no day can be chosen")
			}
			return
		}
		first, err := web.KeyForm{Expires: attr(expires, "min")}.Until()
		last, err2 := web.KeyForm{Expires: attr(expires, "max")}.Until()
		if err != nil || err2 != nil {
			rt.Fatal(err, err2)
		}
		if first.Before(p.Now) || last.Before(first) || last.Sub(p.Now) > p.MaxLifetime {
			rt.Errorf("%s at most after %s: from %s to %s", p.Now, p.MaxLifetime, first, last)
		}
	})
}
