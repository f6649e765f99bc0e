package oidc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

const maxName = 255 // bytes

// claims are what a provider says of somebody.
type claims map[string]json.RawMessage

func (c claims) has(name string) bool {
	value, ok := c[name]
	return ok && !bytes.Equal(value, []byte("null"))
}

// fill adds a claim of others if it is missing.
func (c claims) fill(name string, others claims) {
	if !c.has(name) && others.has(name) {
		c[name] = others[name]
	}
}

// describe returns what policies know somebody by.
func (p *Provider) describe(c claims) (name string, groups []string, err error) {
	if name, err = readName(c, p.config.UsernameClaim, p.config.Prefix); err != nil {
		return "", nil, err
	}
	if p.isReserved(name) {
		return "", nil, fmt.Errorf("the claim %s is %q, which begins like the names of another provider", p.config.UsernameClaim, brief(name))
	}
	if groups, err = readGroups(c, p.config.GroupsClaim, p.config.Prefix); err != nil {
		return "", nil, err
	}
	return name, slices.DeleteFunc(groups, p.isReserved), nil
}

// isReserved reports whether a name or group would be taken for another provider's.
func (p *Provider) isReserved(name string) bool {
	return slices.ContainsFunc(p.config.Reserved, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// readName reads a name, which with the prefix must be one that can be the user of Basic
// credentials.
func readName(c claims, claim, prefix string) (string, error) {
	if !c.has(claim) {
		return "", fmt.Errorf("the claim %s, which is to be the name, is missing: check the provider's scopes and mappings, or username_claim", claim)
	}
	var name string
	if err := json.Unmarshal(c[claim], &name); err != nil {
		return "", fmt.Errorf("the claim %s, which is to be the name, is no text", claim)
	}
	full := prefix + name
	if name == "" || len(full) > maxName || full != strings.TrimSpace(full) || strings.ContainsFunc(full, isNotInName) {
		return "", fmt.Errorf("the claim %s is %q, which cannot be a name: with the prefix it must be 1 to %d printable characters without a colon", claim, brief(name), maxName)
	}
	return full, nil
}

// isNotInName also is true of what stands for bytes that are no text, so that no two
// names become one.
func isNotInName(c rune) bool { return c == ':' || c == unicode.ReplacementChar || !unicode.IsPrint(c) }

// readGroups reads a list of groups, which may be a single one, or missing if there is none.
func readGroups(c claims, claim, prefix string) ([]string, error) {
	if !c.has(claim) {
		return nil, nil
	}
	var single string
	var named []*string // nil where there is null, which is no text either
	if json.Unmarshal(c[claim], &single) == nil {
		named = []*string{&single}
	} else if err := json.Unmarshal(c[claim], &named); err != nil || slices.Contains(named, nil) {
		return nil, fmt.Errorf("the claim %s, which is to be the groups, is no list of texts", claim)
	}
	var groups []string
	for _, group := range named {
		if *group != "" {
			groups = append(groups, prefix+*group)
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}
