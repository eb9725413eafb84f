package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// mutant is one change of one file.
type mutant struct {
	file     string
	line     int
	from, to int    // bytes of the file that are replaced
	old, new string // what was there, and what is there instead
	text     []byte // of the whole file
	fn       *function
}

// function is a function or method with a body.
type function struct {
	name     string
	from, to int   // bytes of its body, braces included
	labels   []int // the ends of its labels' names, where they are set and where they are used
	results  bool
}

func (m *mutant) String() string { return fmt.Sprintf("%s:%d: %s", m.file, m.line, m.change()) }

func (m *mutant) change() string {
	short := func(s string) string {
		s = strings.Join(strings.Fields(s), " ")
		return s[:min(len(s), 60)]
	}
	return fmt.Sprintf("%q → %q", short(m.old), short(m.new))
}

// id names the mutant without its line number, which changes with each edit above it: the file, the function, the
// line's text, which one of the function's lines with that text if there are several, and the change.
func (m *mutant) id() string {
	name, from, to := "var", 0, len(m.text)
	if m.fn != nil {
		name, from, to = m.fn.name, m.fn.from, m.fn.to
	}
	begin := bytes.LastIndexByte(m.text[:m.from], '\n') + 1
	own, _, _ := bytes.Cut(m.text[begin:], []byte("\n"))
	text, which, same := strings.TrimSpace(string(own)), 1, 0
	at := from
	for line := range strings.SplitAfterSeq(string(m.text[from:to]), "\n") {
		if strings.TrimSpace(line) == text {
			same++
			if at < begin {
				which++
			}
		}
		at += len(line)
	}
	if same > 1 {
		text += fmt.Sprintf(" (%d of %d)", which, same)
	}
	return fmt.Sprintf("%s: %s: %s: %s", m.file, name, text, m.change())
}

// source is the file with the change.
func (m *mutant) source() []byte {
	return bytes.Join([][]byte{m.text[:m.from], []byte(m.new), m.text[m.to:]}, nil)
}

// swaps are operators and what they become.
var swaps = map[token.Token]token.Token{
	token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.LAND: token.LOR, token.LOR: token.LAND,
	token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.ADD,
	token.AND: token.OR, token.OR: token.AND, token.SHL: token.SHR, token.SHR: token.SHL,
}

// draw returns n mutants of the packages in dirs, fewer if there are not so many. Each line of code is as likely as
// another, and of the changes of a line each.
func draw(seed uint64, n int, dirs []string) (sample []*mutant, err error) {
	var lines [][]*mutant
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files { // sorted
			compiled, err := build.Default.MatchFile(filepath.Split(file))
			if err != nil {
				return nil, err
			}
			if !compiled || strings.HasSuffix(file, "_test.go") {
				continue
			}
			more, err := mutantsOf(file)
			if err != nil {
				return nil, err
			}
			lines = append(lines, more...)
		}
	}
	rng := rand.New(rand.NewPCG(seed, 400))
	rng.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	for _, line := range lines[:min(n, len(lines))] {
		sample = append(sample, line[rng.IntN(len(line))])
	}
	return sample, nil
}

// mutantsOf returns the mutants of a file, by line.
func mutantsOf(file string) (lines [][]*mutant, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	f := &finder{fset: fset, file: filepath.Clean(file), text: text, byLine: map[int]int{}, header: map[ast.Node]bool{}}
	for _, decl := range parsed.Decls {
		f.fn = f.function(decl)
		ast.Inspect(decl, f.visit)
	}
	return f.lines, nil
}

// finder collects mutants.
type finder struct {
	fset   *token.FileSet
	file   string
	text   []byte
	lines  [][]*mutant
	byLine map[int]int       // index in lines
	fn     *function         // that is looked at, if any
	header map[ast.Node]bool // statements that belong to an if, for or switch
}

// function describes decl, nil if it is none.
func (f *finder) function(decl ast.Decl) *function {
	d, ok := decl.(*ast.FuncDecl)
	if !ok || d.Body == nil {
		return nil
	}
	fn := &function{name: d.Name.Name, from: f.offset(d.Body.Lbrace), to: f.offset(d.Body.Rbrace) + 1,
		results: d.Type.Results.NumFields() > 0}
	ast.Inspect(d.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.LabeledStmt:
			fn.labels = append(fn.labels, f.offset(n.Label.End()))
		case *ast.BranchStmt:
			if n.Label != nil {
				fn.labels = append(fn.labels, f.offset(n.Label.End()))
			}
		}
		return true
	})
	return fn
}

func (f *finder) offset(p token.Pos) int { return f.fset.Position(p).Offset }

// replace adds the mutant that has with in the place of from to to.
func (f *finder) replace(from, to token.Pos, with string) {
	a, b := f.fset.Position(from), f.fset.Position(to)
	m := &mutant{file: f.file, line: a.Line, from: a.Offset, to: b.Offset, old: string(f.text[a.Offset:b.Offset]),
		new: with, text: f.text, fn: f.fn}
	i, ok := f.byLine[a.Line]
	if !ok {
		i = len(f.lines)
		f.byLine[a.Line] = i
		f.lines = append(f.lines, nil)
	}
	f.lines[i] = append(f.lines[i], m)
}

// between is the source of n.
func (f *finder) between(n ast.Node) []byte {
	return f.text[f.offset(n.Pos()):f.offset(n.End())]
}

func (f *finder) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GenDecl:
		return n.Tok == token.VAR // types have nothing to change, and constants are another question
	case *ast.BinaryExpr:
		if with, ok := swaps[n.Op]; ok {
			f.replace(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), with.String())
		}
	case *ast.SwitchStmt:
		f.header[n.Init] = true
	case *ast.ForStmt:
		f.header[n.Init], f.header[n.Post] = true, true
	case *ast.IfStmt:
		f.header[n.Init] = true
		f.replace(n.Cond.Pos(), n.Cond.End(), "false && ("+string(f.between(n.Cond))+")")
		f.replace(n.Cond.Pos(), n.Cond.End(), "true || ("+string(f.between(n.Cond))+")")
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			f.replace(n.OpPos, n.OpPos+1, "")
		}
	case *ast.ExprStmt: // a call whose results nobody uses
		f.replace(n.Pos(), n.End(), "")
	case *ast.DeferStmt:
		f.replace(n.Pos(), n.End(), "")
	case *ast.IncDecStmt:
		f.replace(n.Pos(), n.End(), "")
	case *ast.BranchStmt:
		if n.Label == nil && n.Tok == token.CONTINUE {
			f.replace(n.Pos(), n.End(), "break")
		}
	case *ast.AssignStmt:
		switch {
		case n.Tok == token.DEFINE:
		case f.header[n]: // where no if statement can be
			f.replace(n.Lhs[0].Pos(), n.TokPos+token.Pos(len(n.Tok.String())), strings.Repeat("_, ", len(n.Lhs)-1)+"_ =")
		default:
			f.replace(n.Pos(), n.End(), "if false { "+string(f.between(n))+" }")
		}
	case *ast.BasicLit:
		if n.Kind == token.INT {
			f.replace(n.Pos(), n.End(), "("+n.Value+"+1)")
		}
	}
	return true
}
