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
}

// field is one option of a module's JSON.
type field struct{ name, kind, doc string }

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
	var modules []module
	for _, t := range pkg.Types {
		if m, ok := readModule(t); ok {
			modules = append(modules, m)
		}
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.id, b.id) })
	return render(modules), nil
}

// readModule reads a type if it is a Caddy module.
func readModule(t *doc.Type) (m module, ok bool) {
	m.doc = t.Doc
	for _, method := range t.Methods {
		switch method.Name {
		case "CaddyModule":
			m.id = moduleID(method.Decl)
		case "UnmarshalCaddyfile":
			_, m.syntax, _ = strings.Cut(method.Doc, "Syntax:\n")
		}
	}
	structure, isStruct := t.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType)
	if m.id == "" || !isStruct {
		return m, false
	}
	for _, f := range structure.Fields.List {
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
		m.fields = append(m.fields, field{name, kind, strings.Join(strings.Fields(f.Doc.Text()), " ")})
	}
	return m, true
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

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
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
		if len(m.fields) == 0 {
			continue
		}
		page.WriteString("\n| JSON | type | |\n|---|---|---|\n")
		for _, f := range m.fields {
			fmt.Fprintf(&page, "| `%s` | %s | %s |\n", f.name, f.kind, strings.ReplaceAll(f.doc, "|", `\|`))
		}
	}
	return page.Bytes()
}

// unindent takes a tab from the lines of a comment's block.
func unindent(block string) string {
	lines := strings.Split(strings.Trim(block, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "\t")
	}
	return strings.Join(lines, "\n")
}
