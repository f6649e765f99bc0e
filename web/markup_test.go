package web_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/eblume/caddy-registry/web"
)

// TestPagesNeedNothingThatThePolicyForbids finds what browsers would refuse.
func TestPagesNeedNothingThatThePolicyForbids(t *testing.T) {
	onEach(t, func(t *testing.T, d document) {
		for n := range d.all("") {
			for _, a := range n.Attr {
				switch {
				case a.Key == "style", strings.HasPrefix(a.Key, "on"), a.Key == "srcdoc", a.Key == "formaction":
					t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
				case slices.Contains([]string{"href", "src", "action"}, a.Key) && !isLocal(a.Val):
					t.Errorf("<%s %s=%q> leads elsewhere", n.Data, a.Key, a.Val)
				}
			}
			loads := n.Data == "script" || n.Data == "img" || n.Data == "link"
			if slices.Contains([]string{"style", "iframe", "object", "embed", "base"}, n.Data) || loads && !strings.HasPrefix(attr(n, "src")+attr(n, "href"), web.AssetPrefix) || n.Data == "script" && n.FirstChild != nil {
				t.Errorf("<%s %v>", n.Data, n.Attr)
			}
		}
	})
}

// isLocal tells whether a URL is a path of the site, or a place on the page.
func isLocal(url string) bool {
	return strings.HasPrefix(url, "#") || strings.HasPrefix(url, "/") && !strings.HasPrefix(url, "//") && !strings.Contains(url, `\`)
}

func TestWhatPointsToAnElementFindsIt(t *testing.T) {
	onEach(t, func(t *testing.T, d document) {
		ids := map[string]bool{}
		for n := range d.all("") {
			if id := attr(n, "id"); id != "" {
				if ids[id] {
					t.Errorf("two elements are %s", id)
				}
				ids[id] = true
			}
		}
		for n := range d.all("") {
			for _, key := range []string{"for", "aria-labelledby", "aria-describedby", "data-copy", "data-show"} {
				for id := range strings.FieldsSeq(attr(n, key)) {
					if !ids[id] {
						t.Errorf("<%s %s=%q> finds nothing", n.Data, key, id)
					}
				}
			}
		}
		if skip := slices.Collect(d.all("a"))[0]; attr(skip, "href") != "#main" || !ids["main"] {
			t.Error("the first link does not skip to the content")
		}
	})
}

func TestEverythingThatIsUsedHasAName(t *testing.T) {
	onEach(t, func(t *testing.T, d document) {
		labels := map[string]string{}
		for label := range d.all("label") {
			labels[attr(label, "for")] = text(label)
		}
		names := map[string]bool{}
		for n := range d.all("") {
			switch n.Data {
			case "input", "textarea", "select":
				if attr(n, "type") != "hidden" && labels[attr(n, "id")] == "" {
					t.Errorf("<%s id=%q> has no label", n.Data, attr(n, "id"))
				}
			case "button", "a", "summary", "th", "caption", "h1", "h2", "h3":
				if text(n) == "" {
					t.Errorf("<%s %v> is empty", n.Data, n.Attr)
				}
			case "img":
				if _, ok := lookup(n, "alt"); !ok {
					t.Error("an image has no alt")
				}
			}
			// Those that copy are told apart by what is before them.
			if _, copies := lookup(n, "data-copy"); n.Data == "button" && !copies {
				if names[text(n)] {
					t.Errorf("two buttons are %q", text(n))
				}
				names[text(n)] = true
			}
		}
	})
}

func TestHeadingsAreInOrder(t *testing.T) {
	onEach(t, func(t *testing.T, d document) {
		level, firsts := 0, 0
		for n := range d.all("") {
			if len(n.Data) != 2 || n.Data[0] != 'h' || n.Data[1] < '1' || n.Data[1] > '6' {
				continue
			}
			next := int(n.Data[1] - '0')
			if next > level+1 {
				t.Errorf("%q is h%d after h%d", text(n), next, level)
			}
			if level = next; level == 1 {
				firsts++
			}
		}
		if firsts != 1 {
			t.Errorf("%d elements are h1", firsts)
		}
	})
}

func TestThePageIsNamed(t *testing.T) {
	onEach(t, func(t *testing.T, d document) {
		for title := range d.all("title") {
			for h1 := range d.all("h1") {
				if text(title) != text(h1)+" · registry.example" {
					t.Errorf("title %q, heading %q", text(title), text(h1))
				}
			}
		}
		for root := range d.all("html") {
			if attr(root, "lang") != "en" {
				t.Error("the page's language is not told")
			}
		}
	})
}

// TestWithoutTheScriptNothingIsLost holds the pages to HTML: what only the script can do
// is hidden, and nothing else is.
func TestWithoutTheScriptNothingIsLost(t *testing.T) {
	onEach(t, func(t *testing.T, d document) {
		for n := range d.all("") {
			_, hidden := lookup(n, "hidden")
			_, copies := lookup(n, "data-copy")
			_, shows := lookup(n, "data-show")
			if hidden != (copies || shows) || hidden && attr(n, "type") != "button" {
				t.Errorf("<%s %v>", n.Data, n.Attr)
			}
		}
	})
}

func TestAtMostOneFieldTakesTheFocus(t *testing.T) {
	onEach(t, func(t *testing.T, d document) {
		focused := 0
		for n := range d.all("") {
			if _, ok := lookup(n, "autofocus"); ok {
				focused++
			}
			if index := attr(n, "tabindex"); index != "" && index != "0" && index != "-1" {
				t.Errorf("<%s tabindex=%q> upsets the order", n.Data, index)
			}
		}
		if focused > 1 {
			t.Errorf("%d fields take the focus", focused)
		}
	})
}

// TestTablesStayTables: without roles, cells that are laid out as cards are none.
func TestTablesStayTables(t *testing.T) {
	roles := map[string]string{"table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}
	for table := range show(t, keys(keysPage(forgejo, leaked))).all("table") {
		columns := 0
		for n := range elements(table, "") {
			role := roles[n.Data]
			if n.Data == "th" {
				role = map[string]string{"col": "columnheader", "row": "rowheader"}[attr(n, "scope")]
			}
			if n.Data == "th" && role == "" || role != attr(n, "role") {
				t.Errorf("<%s> is a %q", n.Data, attr(n, "role"))
			}
			if n.Data != "tr" {
				continue
			}
			cells := countElements(n)
			if columns == 0 {
				columns = cells
			}
			if cells != columns {
				t.Errorf("%d cells in %d columns", cells, columns)
			}
		}
	}
}

func countElements(parent *html.Node) int {
	count := 0
	for n := range parent.ChildNodes() {
		if n.Type == html.ElementNode {
			count++
		}
	}
	return count
}
