package main

import (
	"bytes"
	"fmt"
	"go/ast"
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
}

func (m *mutant) String() string {
	short := func(s string) string {
		s = strings.Join(strings.Fields(s), " ")
		return s[:min(len(s), 60)]
	}
	return fmt.Sprintf("%s:%d: %q → %q", m.file, m.line, short(m.old), short(m.new))
}

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
			if strings.HasSuffix(file, "_test.go") {
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
	f := &finder{fset: fset, file: filepath.Clean(file), text: text, byLine: map[int]int{}}
	ast.Inspect(parsed, f.visit)
	return f.lines, nil
}

// finder collects mutants.
type finder struct {
	fset   *token.FileSet
	file   string
	text   []byte
	lines  [][]*mutant
	byLine map[int]int // index in lines
}

// replace adds the mutant that has with in the place of from to to.
func (f *finder) replace(from, to token.Pos, with string) {
	a, b := f.fset.Position(from), f.fset.Position(to)
	m := &mutant{file: f.file, line: a.Line, from: a.Offset, to: b.Offset, old: string(f.text[a.Offset:b.Offset]), new: with, text: f.text}
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
	return f.text[f.fset.Position(n.Pos()).Offset:f.fset.Position(n.End()).Offset]
}

func (f *finder) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GenDecl:
		return n.Tok == token.VAR // types have nothing to change, and constants are another question
	case *ast.BinaryExpr:
		if with, ok := swaps[n.Op]; ok {
			f.replace(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), with.String())
		}
	case *ast.IfStmt:
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
		if n.Tok != token.DEFINE {
			f.replace(n.Pos(), n.End(), "if false { "+string(f.between(n))+" }")
		}
	case *ast.BasicLit:
		if n.Kind == token.INT {
			f.replace(n.Pos(), n.End(), "("+n.Value+"+1)")
		}
	}
	return true
}
