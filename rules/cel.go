package rules

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/keyward/keyward/policy"
)

const (
	maxExpression = 4096 // bytes
	// maxCost bounds one evaluation, in CEL's units: reading a variable or comparing two numbers costs one. An expression
	// that could cost more is refused when it is loaded.
	maxCost = 10_000
	// assumedSize is how long texts and lists among a function's arguments are taken to be when the cost is estimated. A
	// longer one that makes the evaluation too costly is an error then, and the rule denies.
	assumedSize = 256
)

// literals are the functions that make a value of the chain from a text. The text is a literal, so that a mistake in it
// is found when the rule is loaded.
var literals = map[string]struct {
	result *types.Type
	parse  func(string) (ref.Val, error)
}{
	"wei":      {weiType, parseUnit(0)},
	"gwei":     {weiType, parseUnit(9)},
	"ether":    {weiType, parseUnit(18)},
	"address":  {addressType, parseAddress},
	"selector": {selectorType, parseSelector},
}

func parseUnit(decimals int) func(string) (ref.Val, error) {
	return func(text string) (ref.Val, error) {
		x, err := parseAmount(text, decimals)
		return wei(x), err
	}
}

func parseAddress(text string) (ref.Val, error) {
	var a policy.Address
	err := a.UnmarshalText([]byte(text))
	return address(a), err
}

// parseSelector reads 0x and 8 hex digits, or a function's signature.
func parseSelector(text string) (ref.Val, error) {
	var s policy.Selector
	if strings.HasPrefix(text, "0x") {
		err := s.UnmarshalText([]byte(text))
		return selector(s), err
	}
	canonical, err := policy.ParseSignature(text)
	if err != nil {
		return nil, err
	}
	return selector(policy.SelectorOf(canonical)), nil
}

// environment is what an expression may use: the variables, args, and CEL's standard library without dyn, which would
// hide a type from the checker.
func environment(args map[string]*types.Type) (*cel.Env, error) {
	without := env.NewLibrarySubset().AddExcludedFunctions(&env.Function{Name: "dyn"})
	options := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(without)),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.Function(operators.Less, overload("less_wei", types.BoolType)),
		cel.Function(operators.LessEquals, overload("less_equals_wei", types.BoolType)),
		cel.Function(operators.Greater, overload("greater_wei", types.BoolType)),
		cel.Function(operators.GreaterEquals, overload("greater_equals_wei", types.BoolType)),
		cel.Function(operators.Add, overload("add_wei", weiType)),
		cel.Function(operators.Subtract, overload("subtract_wei", weiType)),
		cel.Function(operators.Multiply, overload("multiply_wei", weiType)),
		cel.ASTValidators(cel.ValidateHomogeneousAggregateLiterals(), cel.ValidateRegexLiterals()),
	}
	for name, f := range literals {
		options = append(options, cel.Function(name, cel.Overload(name+"_string", []*types.Type{types.StringType}, f.result,
			cel.UnaryBinding(func(text ref.Val) ref.Val {
				v, err := f.parse(string(text.(types.String)))
				if err != nil {
					return types.WrapErr(err)
				}
				return v
			}))))
	}
	for _, typ := range []*types.Type{weiType, addressType, selectorType} {
		options = append(options, cel.Function("string",
			cel.Overload(typ.TypeName()+"_to_string", []*types.Type{typ}, types.StringType,
				cel.UnaryBinding(func(v ref.Val) ref.Val { return v.ConvertToType(types.StringType) }))))
	}
	for name, typ := range variables {
		options = append(options, cel.Variable(name, typ))
	}
	for name, typ := range args {
		options = append(options, cel.Variable(name, typ))
	}
	return cel.NewCustomEnv(options...)
}

// overload declares an operator for two amounts. The values' own methods do the work.
func overload(id string, result *types.Type) cel.FunctionOpt {
	return cel.Overload(id, []*types.Type{weiType, weiType}, result)
}

// expression is a compiled CEL expression.
type expression struct {
	program cel.Program
	tx      bool // it reads the transaction
}

// compileExpression checks text, which must be of the type want. what names the field in errors.
func compileExpression(what, text string, want *types.Type, args map[string]*types.Type) (*expression, error) {
	fail := func(err error) (*expression, error) { return nil, fmt.Errorf("%s: %w", what, err) }
	if len(text) > maxExpression {
		return fail(fmt.Errorf("the expression has more than %d bytes", maxExpression))
	}
	e, err := environment(args)
	if err != nil {
		return fail(err)
	}
	checked, issues := e.Compile(text)
	if issues.Err() != nil {
		return fail(explain(issues, args))
	}
	if got := checked.OutputType(); !got.IsExactType(want) {
		return fail(fmt.Errorf("the expression is of type %s, want %s", got, want))
	}
	if err := checkNodes(checked.NativeRep()); err != nil {
		return fail(err)
	}
	estimate, err := e.EstimateCost(checked, sizes{})
	if err != nil {
		return fail(err)
	}
	if estimate.Max > maxCost {
		return fail(fmt.Errorf("the expression may cost %d, more than %d: use fewer loops over lists", estimate.Max, maxCost))
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if readsSized(checked.NativeRep(), args) { // else the estimate is the bound already
		options = append(options, cel.CostLimit(maxCost))
	}
	program, err := e.Program(checked, options...)
	if err != nil {
		return fail(err)
	}
	return &expression{program, readsTx(checked.NativeRep())}, nil
}

// readsTx reports whether an expression reads tx or args, which a message has not.
func readsTx(tree *ast.AST) bool {
	for _, ref := range tree.ReferenceMap() {
		if strings.HasPrefix(ref.Name, "tx.") || strings.HasPrefix(ref.Name, "args.") {
			return true
		}
	}
	return false
}

// readsSized reports whether an expression reads an argument whose size the client decides: it may be larger than
// [assumedSize].
func readsSized(tree *ast.AST, args map[string]*types.Type) bool {
	for _, ref := range tree.ReferenceMap() {
		if t := args[ref.Name]; t != nil {
			switch t.Kind() {
			case types.StringKind, types.BytesKind, types.ListKind:
				return true
			}
		}
	}
	return false
}

// explain gives the first issue with its place, and what can be done about the usual ones.
func explain(issues *cel.Issues, args map[string]*types.Type) error {
	first := issues.Errors()[0]
	text := fmt.Sprintf("column %d: %s", first.Location.Column()+1, first.Message)
	switch {
	case strings.Contains(first.Message, "no matching overload") && strings.Contains(first.Message, "wei"):
		text += ` (write an amount as wei("1"), gwei("1") or ether("0.1"))`
	case strings.Contains(first.Message, "no matching overload") && strings.Contains(first.Message, "address"):
		text += ` (write an address as address("0x…"))`
	case strings.Contains(first.Message, "no matching overload") && strings.Contains(first.Message, "selector"):
		text += ` (write a selector as selector("transfer(address,uint256)") or selector("0xa9059cbb"))`
	case strings.Contains(first.Message, "undeclared reference"):
		names := append(slices.Collect(maps.Keys(variables)), slices.Collect(maps.Keys(args))...)
		slices.Sort(names)
		text += "; there are " + strings.Join(names, ", ")
		if len(args) == 0 {
			text += "; args need function = \"name(type name, …)\""
		}
	}
	return errors.New(text)
}

// checkNodes refuses what the type checker lets pass and can't be meant: a value without a known type, which compares
// as unequal to everything of another type, and a text that is not a literal or makes no value.
func checkNodes(tree *ast.AST) (err error) {
	for id, typ := range tree.TypeMap() {
		if hasDyn(typ) {
			place := tree.SourceInfo().GetStartLocation(id)
			return fmt.Errorf("column %d: the type is not known before the rule runs", place.Column()+1)
		}
	}
	ast.PostOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || err != nil {
			return
		}
		f, ok := literals[e.AsCall().FunctionName()]
		if !ok {
			return
		}
		place := tree.SourceInfo().GetStartLocation(e.ID()).Column() + 1
		arg := e.AsCall().Args()[0]
		if arg.Kind() != ast.LiteralKind {
			err = fmt.Errorf("column %d: %s takes a literal text", place, e.AsCall().FunctionName())
			return
		}
		if _, bad := f.parse(string(arg.AsLiteral().(types.String))); bad != nil {
			err = fmt.Errorf("column %d: %s: %w", place, e.AsCall().FunctionName(), bad)
		}
	}))
	return err
}

func hasDyn(t *types.Type) bool {
	return t.Kind() == types.DynKind || t.Kind() == types.AnyKind || slices.ContainsFunc(t.Parameters(), hasDyn)
}

// sizes tells the cost estimator how large values are.
type sizes struct{}

// EstimateCallCost says that the operators and literals of this package cost as much as those of numbers. It leaves the
// others to CEL.
func (sizes) EstimateCallCost(_, overloadID string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	if !strings.HasSuffix(overloadID, "_wei") && !isLiteral(overloadID) {
		return nil
	}
	return cost.NewCallEstimate(cost.Estimate{Min: 1, Max: 1}, nil)
}

func isLiteral(overloadID string) bool {
	name, ok := strings.CutSuffix(overloadID, "_string")
	_, known := literals[name]
	return ok && known
}

// EstimateSize bounds what has a size that only a run can tell: texts and lists by assumedSize, all else by one.
func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	switch node.Type().Kind() {
	case types.StringKind, types.BytesKind, types.ListKind:
	default:
		return &cost.SizeEstimate{Min: 1, Max: 1}
	}
	if e := node.Expr(); e != nil && (e.Kind() == ast.LiteralKind || e.Kind() == ast.ListKind ||
		e.Kind() == ast.CallKind) {
		return nil
	}
	return &cost.SizeEstimate{Min: 0, Max: assumedSize}
}

// eval evaluates the expression.
func (e *expression) eval(in *Input) (ref.Val, error) {
	value, _, err := e.program.Eval(in)
	if err != nil {
		return nil, fmt.Errorf("it can't be evaluated: %w", err)
	}
	return value, nil
}

func (e *expression) bool(in *Input) (bool, error) {
	value, err := e.eval(in)
	if err != nil {
		return false, err
	}
	is, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("it gave %s, not a bool", value.Type().TypeName())
	}
	return bool(is), nil
}

func (e *expression) wei(in *Input) (wei, error) {
	value, err := e.eval(in)
	if err != nil {
		return wei{}, err
	}
	amount, ok := value.(wei)
	if !ok {
		return wei{}, fmt.Errorf("it gave %s, not wei", value.Type().TypeName())
	}
	return amount, nil
}
