package authn

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestLocalPath(t *testing.T) {
	for wanted, want := range map[string]string{
		"/":                        "/",
		"/user/apikey":             "/user/apikey",
		"/r/a/b?tag=v1&x=%2F":      "/r/a/b?tag=v1&x=%2F",
		"/r/a%2Fb":                 "/r/a%2Fb",
		"/é":                       "/%C3%A9",
		"/a#fragment":              "/a",
		"/a//b":                    "/a//b",
		"/%2F/evil.test":           "/%2F/evil.test",
		"/%5Cevil.test":            "/%5Cevil.test",
		"/@evil.test":              "/@evil.test",
		"":                         "/",
		"user":                     "/",
		"?a":                       "/",
		"//evil.test":              "/",
		"///evil.test":             "/",
		"/\\evil.test":             "/",
		"\\\\evil.test":            "/",
		"/a?b=\\":                  "/",
		"https://evil.test/":       "/",
		"https:evil.test":          "/",
		"javascript:alert(1)":      "/",
		"data:text/html,x":         "/",
		" /a":                      "/",
		"/\t/evil.test":            "/",
		"/\r\nSet-Cookie: a=b":     "/",
		"/\x00":                    "/",
		"/\x7f":                    "/",
		"/%zz":                     "/",
		"/\u2028":                  "/%E2%80%A8",
		"/%0d%0aSet-Cookie:%20a=b": "/%0d%0aSet-Cookie:%20a=b",
	} {
		if got := LocalPath(wanted); got != want {
			t.Errorf("%q: %q, want %q", wanted, got, want)
		}
	}
}

// FuzzLocalPath looks for what a browser would take for another site, or for more than a
// path.
func FuzzLocalPath(f *testing.F) {
	for _, wanted := range []string{
		"/", "/a?b=c#d", "//evil.test", "/\\evil.test", "/%5c/evil.test", "/./\\/evil.test", "/;@evil.test", "/\t/evil.test", "/a//b", "/..//evil.test", "/.//evil.test",
		"https://evil.test", "http:/evil.test", "%2F%2Fevil.test", "/%2F%2Fevil.test", "/?\x85", "/\u00a0", "///", "/:80", "/%00", "?//evil.test",
	} {
		f.Add(wanted)
	}
	base, err := url.Parse("https://registry.test/auth/callback/idp")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, wanted string) {
		got := LocalPath(wanted)
		if !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.Contains(got, "\\") ||
			strings.ContainsFunc(got, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			t.Fatalf("%q leads to %q", wanted, got)
		}
		if again := LocalPath(got); again != got {
			t.Fatalf("%q leads to %q, and that to %q", wanted, got, again)
		}
		target, err := base.Parse(got)
		if err != nil || target.Scheme != "https" || target.Host != "registry.test" || target.User != nil || target.Fragment != "" {
			t.Fatalf("%q leads to %v, %v", wanted, target, err)
		}
		w := httptest.NewRecorder()
		http.Redirect(w, httptest.NewRequest(http.MethodGet, base.String(), nil), got, http.StatusSeeOther)
		if location := w.Header().Get("Location"); !strings.HasPrefix(location, "/") || strings.HasPrefix(location, "//") || strings.ContainsAny(location, "\\\r\n") {
			t.Fatalf("%q becomes Location %q", wanted, location)
		}
	})
}
