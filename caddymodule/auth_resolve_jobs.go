package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/eblume/caddy-registry/glob"
)

func (a *Auth) resolveJobs() ([]jobOptions, error) {
	var jobs []jobOptions
	names := a.names()
	for i := range a.WorkloadIdentities {
		w := &a.WorkloadIdentities[i]
		if err := checkAuthName(w.Name, names[:len(a.OIDC)+i]); err != nil {
			return nil, fmt.Errorf("workload_identity: %w", err)
		}
		resolved, err := w.resolve()
		if err != nil {
			return nil, fmt.Errorf("workload_identity %s: %w", w.Name, err)
		}
		jobs = append(jobs, resolved)
	}
	return jobs, nil
}

func (w *WorkloadIdentity) resolve() (o jobOptions, err error) {
	if err := w.checkNeeded(); err != nil {
		return o, err
	}
	o = jobOptions{name: w.Name, user: w.User, groups: w.Groups}
	if err := replaceOptions(
		textOption{"issuer", &o.issuer, w.Issuer, checkAuthURL},
		textOption{"audience", &o.audience, w.Audience, nil},
		textOption{"jwks_url", &o.jwksURL, w.JWKSURL, checkAuthURL},
	); err != nil {
		return o, err
	}
	if o.caFile, err = resolveOptionalPath(w.CAFile); err != nil {
		return o, fmt.Errorf("ca_file: %w", err)
	}
	for i := range w.Match {
		match, err := w.Match[i].resolve(w.Match[:i])
		if err != nil {
			return o, fmt.Errorf("match %s: %w", w.Match[i].Claim, err)
		}
		o.match = append(o.match, match)
	}
	if o.user == "" {
		o.user = w.Name + ":{claim.sub}"
	}
	if err := checkTemplate(o.user); err != nil {
		return o, fmt.Errorf("user: %w", err)
	}
	for _, group := range o.groups {
		if err := checkTemplate(group); err != nil {
			return o, fmt.Errorf("groups: %w", err)
		}
	}
	return o, nil
}

func (w *WorkloadIdentity) checkNeeded() error {
	switch {
	case w.Issuer == "":
		return errIssuerIsNeeded
	case w.Audience == "":
		return errAudienceIsNeeded
	case len(w.Match) == 0:
		return errMatchIsNeeded
	}
	return nil
}

func (m *ClaimMatch) resolve(above []ClaimMatch) (claimMatch, error) {
	if m.Claim == "" || hasPlaceholder(m.Claim) {
		return claimMatch{}, fmt.Errorf("bad claim %q: it must have a name, without placeholders", m.Claim)
	}
	if slices.ContainsFunc(above, func(other ClaimMatch) bool { return other.Claim == m.Claim }) {
		return claimMatch{}, fmt.Errorf("claim %s is given twice", m.Claim)
	}
	if len(m.Globs) == 0 {
		return claimMatch{}, errNoGlob
	}
	for _, glob := range m.Globs {
		if caddy.NewReplacer().ReplaceKnown(glob, "") != glob {
			return claimMatch{}, fmt.Errorf("bad glob %q: globs have no placeholders", glob)
		}
	}
	globs, err := glob.ParseText(m.Globs)
	return claimMatch{m.Claim, globs}, err
}

// checkTemplate reports why text cannot be filled in with a token's claims. Other
// placeholders than those are refused: what they stood for would be part of a name that
// policies know.
func checkTemplate(text string) error {
	if text == "" {
		return errors.New("bad template: it is empty")
	}
	for rest := text; rest != ""; {
		literal, after, open := strings.Cut(rest, "{")
		placeholder, behind, closed := strings.Cut(after, "}")
		claim, isClaim := strings.CutPrefix(placeholder, "claim.")
		if strings.Contains(literal, "}") || open && (!closed || !isClaim || claim == "" || strings.Contains(claim, "{")) {
			return fmt.Errorf("bad template %q: braces must have a claim, such as {claim.sub}", text)
		}
		rest = behind
	}
	return nil
}
