package job

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxValue bounds the claims that become part of a name, in characters.
const maxValue = 255

// template is a text with claims in it.
type template []templatePart

// templatePart is a claim, or text if that is empty.
type templatePart struct{ text, claim string }

// parseTemplate reads a text such as ci:{claim.repository}.
func parseTemplate(text string) (template, error) {
	if text == "" {
		return nil, fmt.Errorf("bad template: it is empty")
	}
	var parts template
	for rest := text; rest != ""; {
		literal, after, open := strings.Cut(rest, "{")
		placeholder, behind, closed := strings.Cut(after, "}")
		claim, isClaim := strings.CutPrefix(placeholder, "claim.")
		if strings.Contains(literal, "}") || open && (!closed || !isClaim || claim == "" || strings.Contains(claim, "{")) {
			return nil, fmt.Errorf("bad template %q: braces must have a claim, such as {claim.sub}", text)
		}
		if literal != "" {
			parts = append(parts, templatePart{text: literal})
		}
		if open {
			parts = append(parts, templatePart{claim: claim})
		}
		rest = behind
	}
	return parts, nil
}

// expand returns the text with the values of claims, which are not looked into.
func (t template) expand(claims map[string]any) (string, error) {
	var text strings.Builder
	for _, part := range t {
		if part.claim == "" {
			text.WriteString(part.text)
			continue
		}
		value, err := nameValue(claims, part.claim)
		if err != nil {
			return "", err
		}
		text.WriteString(value)
	}
	return text.String(), nil
}

// nameValue returns a claim that can be part of a name.
func nameValue(claims map[string]any, claim string) (string, error) {
	value, ok := claims[claim].(string)
	switch {
	case !ok:
		return "", fmt.Errorf("claim %s, which is part of the job's name or groups, is missing or no string", claim)
	case value == "":
		return "", fmt.Errorf("claim %s, which is part of the job's name or groups, is empty", claim)
	case utf8.RuneCountInString(value) > maxValue:
		return "", fmt.Errorf("claim %s, which is part of the job's name or groups, has over %d characters", claim, maxValue)
	case strings.ContainsFunc(value, isUnprintable):
		return "", fmt.Errorf("claim %s, which is part of the job's name or groups, has a character that cannot be printed", claim)
	}
	return value, nil
}

// isUnprintable also holds for what stands for bytes that are no text: different names
// would become the same.
func isUnprintable(c rune) bool {
	return c == utf8.RuneError || !unicode.IsPrint(c)
}
