// Command reference writes the reference of modules and options from their doc
// comments: go run ./docs/reference > docs/reference.md
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

func main() {
	page, err := generate("caddymodule")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(page)
}

// module is what the doc comments of a Caddy module say.
type module struct {
	id, doc, syntax string
	fields          []field
	lists           []list
}

// field is one option of a module's JSON.
type field struct{ name, kind, doc string }

// list is an option that has options of its own, or whose elements have.
type list struct {
	path, doc string // path is the option's name, behind those of the lists that it is in
	single    bool   // it is no list
	fields    []field
}

// generate returns the page about the modules of the package in a folder.
func generate(folder string) ([]byte, error) {
	fset := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: %w", folder, fs.ErrNotExist)
	}
	pkg, err := doc.NewFromFiles(fset, files, "github.com/eblume/caddy-registry/"+folder, doc.PreserveAST)
	if err != nil {
		return nil, err
	}
	types := make(map[string]*doc.Type, len(pkg.Types))
	for _, t := range pkg.Types {
		types[t.Name] = t
	}
	var modules []module
	for _, t := range pkg.Types {
		if m, ok := readModule(t, types); ok {
			modules = append(modules, m)
		}
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.id, b.id) })
	return render(modules), nil
}

// readModule reads a type if it is a Caddy module.
func readModule(t *doc.Type, types map[string]*doc.Type) (m module, ok bool) {
	m.doc = t.Doc
	for _, method := range t.Methods {
		switch method.Name {
		case "CaddyModule":
			m.id = moduleID(method.Decl)
		case "UnmarshalCaddyfile":
			_, m.syntax, _ = strings.Cut(method.Doc, "Syntax:\n")
		}
	}
	if m.id == "" || structOf(t) == nil {
		return m, false
	}
	m.fields, m.lists = readFields(t, types, "")
	return m, true
}

// structOf returns the struct that a type is, or nil.
func structOf(t *doc.Type) *ast.StructType {
	if t == nil {
		return nil
	}
	structure, _ := t.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType)
	return structure
}

// readFields reads the options of a struct, and of the structs that they are, or are lists of.
// Path is where the struct is in a module's JSON.
func readFields(t *doc.Type, types map[string]*doc.Type, path string) (fields []field, lists []list) {
	for _, f := range structOf(t).Fields.List {
		if f.Tag == nil {
			continue
		}
		tag, err := strconv.Unquote(f.Tag.Value)
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		kind := typeName(f.Type)
		if guest := reflect.StructTag(tag).Get("caddy"); guest != "" {
			namespace, _, _ := strings.Cut(strings.TrimPrefix(guest, "namespace="), " ")
			kind = "module in " + namespace
		}
		if element, single := elementOf(f.Type, types); structOf(element) != nil {
			kind = "list, below"
			if single {
				kind = "object, below"
			}
			l := list{path: path + name, doc: element.Doc, single: single}
			var within []list
			l.fields, within = readFields(element, types, l.path+".")
			lists = append(append(lists, l), within...)
		}
		fields = append(fields, field{name, kind, strings.Join(strings.Fields(f.Doc.Text()), " ")})
	}
	return fields, lists
}

// elementOf returns the type of an option, or of a list's elements, if it is one of this
// package's, and whether it is no list.
func elementOf(e ast.Expr, types map[string]*doc.Type) (_ *doc.Type, single bool) {
	single = true
	switch outer := e.(type) {
	case *ast.ArrayType:
		e, single = outer.Elt, false
	case *ast.StarExpr:
		e = outer.X
	}
	element, ok := e.(*ast.Ident)
	if !ok {
		return nil, single
	}
	return types[element.Name], single
}

// moduleID finds the ID in the body of CaddyModule.
func moduleID(f *ast.FuncDecl) (id string) {
	ast.Inspect(f, func(n ast.Node) bool {
		if kv, ok := n.(*ast.KeyValueExpr); ok {
			key, isIdent := kv.Key.(*ast.Ident)
			value, isLiteral := kv.Value.(*ast.BasicLit)
			if isIdent && isLiteral && key.Name == "ID" {
				id, _ = strconv.Unquote(value.Value)
			}
		}
		return true
	})
	return id
}

// typeNames are the types whose names do not tell how a value is written.
var typeNames = map[string]string{"MinFree": "percentage or size"}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		if name, ok := typeNames[e.Name]; ok {
			return name
		}
		return strings.ToLower(e.Name)
	case *ast.SelectorExpr:
		return strings.ToLower(e.Sel.Name)
	case *ast.ArrayType:
		return "list of " + typeName(e.Elt)
	}
	return fmt.Sprintf("%T", e)
}

func render(modules []module) []byte {
	var page bytes.Buffer
	page.WriteString("# Reference\n\nMade from the doc comments by `go run ./docs/reference > docs/reference.md`.\n")
	for _, m := range modules {
		fmt.Fprintf(&page, "\n## `%s`\n\n%s\n", m.id, strings.Join(strings.Fields(m.doc), " "))
		if m.syntax != "" {
			fmt.Fprintf(&page, "\nCaddyfile:\n\n```caddyfile\n%s\n```\n", unindent(m.syntax))
		}
		renderFields(&page, m.fields)
		for _, l := range m.lists {
			heading := "Each of `%s`"
			if l.single {
				heading = "`%s`"
			}
			fmt.Fprintf(&page, "\n### "+heading+"\n\n%s\n", l.path, strings.Join(strings.Fields(l.doc), " "))
			renderFields(&page, l.fields)
		}
	}
	return page.Bytes()
}

func renderFields(page *bytes.Buffer, fields []field) {
	if len(fields) == 0 {
		return
	}
	page.WriteString("\n| JSON | type | |\n|---|---|---|\n")
	for _, f := range fields {
		fmt.Fprintf(page, "| `%s` | %s | %s |\n", f.name, f.kind, strings.ReplaceAll(f.doc, "|", `\|`))
	}
}

// unindent takes a tab from the lines of a comment's block.
func unindent(block string) string {
	lines := strings.Split(strings.Trim(block, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "\t")
	}
	return strings.Join(lines, "\n")
}
