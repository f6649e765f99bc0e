package web_test

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// contrasts are the least that WCAG 2.2 AA asks for: 4.5 for text, 3 for what shows where
// a field or the focus is.
var contrasts = []struct {
	least      float64
	foreground string
	on         string
}{
	{4.5, "text", "ground surface code-ground note-ground bad-ground"},
	{4.5, "muted", "ground surface code-ground"},
	{4.5, "accent", "ground surface note-ground code-ground"},
	{4.5, "accent-strong", "ground surface"},
	{4.5, "on-accent", "accent accent-strong"},
	{4.5, "on-bad", "bad"},
	{4.5, "bad", "surface code-ground"},
	{4.5, "warn", "surface warn-ground"},
	{3, "field-line", "ground surface code-ground"},
	{3, "accent", "bad-ground"},
	{3, "bad", "bad-ground"},
}

func TestTextCanBeRead(t *testing.T) {
	light, dark := colours(t)
	for scheme, palette := range map[string]map[string]string{"light": light, "dark": dark} {
		for _, c := range contrasts {
			for ground := range strings.FieldsSeq(c.on) {
				if got := contrast(t, palette[c.foreground], palette[ground]); got < c.least {
					t.Errorf("%s: %s on %s is %.2f, not %.1f", scheme, c.foreground, ground, got, c.least)
				}
			}
		}
	}
}

var (
	usedColour    = regexp.MustCompile(`[\s{;]color:\s*var\(--([a-z-]+)\)`)
	usedGround    = regexp.MustCompile(`background:\s*var\(--([a-z-]+)\)`)
	usedVariable  = regexp.MustCompile(`var\(--([a-z-]+)\)`)
	definedColour = regexp.MustCompile(`--([a-z-]+):\s*(#[0-9a-f]{6});`)
	defined       = regexp.MustCompile(`--([a-z-]+):`)
	literalColour = regexp.MustCompile(`#[0-9a-fA-F]{3,8}\b`)
)

// TestNoColourIsForgotten: each that is used is in both schemes and in the table above,
// and is used by its name.
func TestNoColourIsForgotten(t *testing.T) {
	css := asset(t, ".css")
	light, dark := colours(t)
	if len(light) == 0 || len(light) != len(dark) {
		t.Errorf("%d light colours, %d dark ones", len(light), len(dark))
	}
	for name := range light {
		if dark[name] == "" {
			t.Errorf("%s is not in the dark scheme", name)
		}
	}
	foregrounds, grounds := map[string]bool{}, map[string]bool{}
	for _, c := range contrasts {
		foregrounds[c.foreground] = true
		for ground := range strings.FieldsSeq(c.on) {
			grounds[ground] = true
		}
	}
	for _, match := range usedColour.FindAllStringSubmatch(css, -1) {
		if !foregrounds[match[1]] {
			t.Errorf("text is in %s, of which no contrast is checked", match[1])
		}
	}
	for _, match := range usedGround.FindAllStringSubmatch(css, -1) {
		if !grounds[match[1]] {
			t.Errorf("text is on %s, of which no contrast is checked", match[1])
		}
	}
	known := map[string]bool{}
	for _, match := range defined.FindAllStringSubmatch(css, -1) {
		known[match[1]] = true
	}
	for _, match := range usedVariable.FindAllStringSubmatch(css, -1) {
		if !known[match[1]] {
			t.Errorf("%s is not defined", match[1])
		}
	}
	rest := definedColour.ReplaceAllString(css, "")
	if found := literalColour.FindString(rest); found != "" {
		t.Errorf("the colour %s has no name", found)
	}
}

func TestEveryClassHasAStyle(t *testing.T) {
	css := asset(t, ".css")
	for name, page := range pages() {
		d := show(t, page)
		for n := range d.all("") {
			for class := range strings.FieldsSeq(attr(n, "class")) {
				if !regexp.MustCompile(`\.` + class + `\b`).MatchString(css) {
					t.Errorf("%s: the class %s has no style", name, class)
				}
			}
		}
	}
}

// colours returns the named colours of the stylesheet in both schemes.
func colours(t *testing.T) (light, dark map[string]string) {
	t.Helper()
	before, after, ok := strings.Cut(asset(t, ".css"), "prefers-color-scheme: dark")
	if !ok {
		t.Fatal("there is no dark scheme")
	}
	read := func(css string) map[string]string {
		found := map[string]string{}
		for _, match := range definedColour.FindAllStringSubmatch(css, -1) {
			found[match[1]] = match[2]
		}
		return found
	}
	return read(before), read(after)
}

// contrast returns the contrast ratio of two colours as WCAG defines it.
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func luminance(t *testing.T, colour string) float64 {
	t.Helper()
	bits, err := strconv.ParseUint(strings.TrimPrefix(colour, "#"), 16, 32)
	if err != nil || len(colour) != 7 {
		t.Fatalf("%q is no colour", colour)
	}
	linear := func(shift int) float64 {
		c := float64(bits>>shift&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(16) + 0.7152*linear(8) + 0.0722*linear(0)
}
