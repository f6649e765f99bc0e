package job_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/authn/job"
)

var placeholder = regexp.MustCompile(`\{claim\.([^{}]+)\}`)

// FuzzTemplate checks that a template that is taken becomes what it says, with claims that
// are not looked into, and that others are refused.
func FuzzTemplate(f *testing.F) {
	for _, template := range []string{"ci:{claim.repository}", "{claim.a}{claim.b}", "", "{", "{claim.}", "a}b", "{claim.a{claim.b}}", "{env.X}", "{{claim.a}}"} {
		f.Add(template, "{claim.a}")
	}
	ci := newIssuer(oldKey)
	f.Fuzz(func(t *testing.T, template, value string) {
		config := ci.config()
		config.User = template
		verifier, err := job.NewIssuer(config)
		good := template != "" && !strings.ContainsAny(placeholder.ReplaceAllString(template, ""), "{}")
		if (err == nil) != good {
			t.Fatalf("%q: %v", template, err)
		}
		if err != nil {
			return
		}
		c := jobClaims(nil)
		want := placeholder.ReplaceAllStringFunc(template, func(found string) string {
			name := placeholder.FindStringSubmatch(found)[1]
			if _, ok := c[name]; !ok {
				c[name] = value
			}
			text, _ := c[name].(string)
			return text
		})
		identity, err := verifier.Verify(context.Background(), sign(t, oldKey, c))
		if err == nil && identity.User != want && value != "" {
			t.Errorf("%q with %q becomes %q", template, value, identity.User)
		}
	})
}

// FuzzToken checks that no text proves anything but a token that the issuer signed.
func FuzzToken(f *testing.F) {
	ci := newIssuer(oldKey)
	verifier := ci.verifier(f)
	signed := sign(f, oldKey, jobClaims(claims{"exp": unix(24 * time.Hour)}))
	if _, err := verifier.Verify(context.Background(), signed); err != nil {
		f.Fatal(err)
	}
	ci.down = true // so that unknown keys are not waited for
	f.Add(signed)
	f.Add(forged(`{"alg":"none"}`, `{"iss":"`+forge+`"}`, ""))
	f.Add(forged(`{"alg":"ES256","kid":"old","jwk":{"kty":"EC","crv":"P-256"}}`, `{"iss":"`+forge+`"}`, "x"))
	f.Fuzz(func(t *testing.T, text string) {
		identity, err := verifier.Verify(context.Background(), text)
		if (identity == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", text, identity, err)
		}
		if err == nil && (!verifier.Issued(text) || decoded(text) != decoded(signed)) {
			t.Errorf("%q is taken", text)
		}
	})
}

// decoded returns a token as bytes: the last letter of each part has bits that mean nothing.
func decoded(token string) string {
	var parts []string
	for part := range strings.SplitSeq(token, ".") {
		bytes, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			return ""
		}
		parts = append(parts, string(bytes))
	}
	return strings.Join(parts, "\n")
}

// FuzzClaims checks that whatever an issuer signs is taken only if it says what it must.
func FuzzClaims(f *testing.F) {
	for _, c := range []claims{forgejoClaims(), githubClaims(), gitlabClaims(), kubernetesClaims()} {
		payload, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(payload))
	}
	for _, payload := range []string{
		`{"iss":"` + forge + `","aud":"` + registry + `","exp":4102444800,"repository":"eblume/app"}`,
		`{"iss":"` + forge + `","aud":["` + registry + `"],"exp":4102444800.5,"nbf":1e9,"repository":"eblume/app","repository":"evil/app"}`,
		`{"iss":"` + forge + `","exp":null}`, `null`, `[]`, `{}`, `{"iss":"` + forge + `","aud":{}}`,
	} {
		f.Add(payload)
	}
	ci := newIssuer(oldKey)
	verifier := ci.verifier(f)
	f.Fuzz(func(t *testing.T, payload string) {
		identity, err := verifier.Verify(context.Background(), signText(t, oldKey, nil, payload))
		if (identity == nil) == (err == nil) {
			t.Fatalf("%v, %v", identity, err)
		}
		if err != nil {
			return
		}
		var says map[string]any
		if err := json.Unmarshal([]byte(payload), &says); err != nil {
			t.Fatalf("taken, but not read: %v", err)
		}
		repository, _ := says["repository"].(string)
		expires, _ := says["exp"].(float64)
		audiences, ok := says["aud"].([]any)
		if !ok {
			audiences = []any{says["aud"]}
		}
		found := false
		for _, audience := range audiences {
			found = found || audience == registry
		}
		owner, name, _ := strings.Cut(repository, "/")
		if says["iss"] != forge || !found || expires <= float64(time.Now().Unix()) || owner != "eblume" || strings.Contains(name, "/") {
			t.Errorf("%s is taken", payload)
		}
		if identity.User != "ci:"+repository || !identity.Expires.Equal(time.Unix(int64(expires), 0)) {
			t.Errorf("%s becomes %+v", payload, identity)
		}
	})
}
