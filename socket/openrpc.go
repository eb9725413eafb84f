package socket

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/keyward/keyward/socket/api"
)

// schemasJSON has the JSON Schema of everything that methods take and give, by name.
//
//go:embed schemas.json
var schemasJSON []byte

// openRPCVersion is the version of the OpenRPC specification that [OpenRPC] follows.
const openRPCVersion = "1.3.2"

// errorMeanings says what each code means, in the order of docs/protocol.md.
var errorMeanings = []struct {
	Code    int
	Meaning string
}{
	{api.CodeDenied, "User denied: the policy, a limit or the session's state says no"},
	{api.CodeUnauthorized, "No such signer, or not one that this client may use"},
	{api.CodeUnsupported, "A method of wallets or nodes that is not here on purpose"},
	{api.CodeParse, "Not JSON"},
	{api.CodeInvalidRequest, "Not a JSON-RPC request, or larger than a message may be"},
	{api.CodeNoMethod, "The method does not exist/is not available"},
	{api.CodeInvalidParams, "A parameter is wrong: data.path says which"},
	{api.CodeUnavailable, "Locked, device absent, PIN needed, timed out: data.retryable says whether to send it again"},
	{api.CodeLimited, "Too many requests: send it again"},
}

// Document types of OpenRPC, as far as they are used here.
type (
	rpcDocument struct {
		OpenRPC    string      `json:"openrpc"`
		Info       rpcInfo     `json:"info"`
		Methods    []rpcMethod `json:"methods"`
		Components struct {
			Schemas json.RawMessage     `json:"schemas"`
			Errors  map[string]rpcError `json:"errors"`
		} `json:"components"`
	}
	rpcInfo struct {
		Title   string `json:"title"`
		Version string `json:"version"`
	}
	rpcMethod struct {
		Name           string       `json:"name"`
		Summary        string       `json:"summary"`
		ParamStructure string       `json:"paramStructure"`
		Params         []rpcContent `json:"params"`
		Result         rpcContent   `json:"result"`
		Errors         []rpcRef     `json:"errors,omitempty"`
	}
	rpcContent struct {
		Name        string `json:"name"`
		Description string `json:"description,omitempty"`
		Required    bool   `json:"required,omitempty"`
		Schema      rpcRef `json:"schema"`
	}
	rpcError struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	rpcRef struct {
		Ref string `json:"$ref"`
	}
)

// OpenRPC describes methods as an OpenRPC document, which rpc_discover answers.
func OpenRPC(methods []Method, version string) (json.RawMessage, error) {
	doc := rpcDocument{OpenRPC: openRPCVersion, Info: rpcInfo{Title: "Keyward", Version: version}}
	for _, m := range methods {
		doc.Methods = append(doc.Methods, m.openRPC())
	}
	doc.Components.Schemas = schemasJSON
	doc.Components.Errors = make(map[string]rpcError)
	for _, e := range errorMeanings {
		doc.Components.Errors[errorName(e.Code)] = rpcError{e.Code, e.Meaning}
	}
	return json.Marshal(doc)
}

func (m *Method) openRPC() rpcMethod {
	out := rpcMethod{Name: m.Name, Summary: m.Summary, ParamStructure: "by-position", Params: []rpcContent{}}
	for _, p := range m.Params {
		out.Params = append(out.Params, rpcContent{p.Name, p.Description, p.Required, schemaRef(p.Schema)})
	}
	out.Result = rpcContent{Name: m.Result.Name, Description: m.Result.Description, Schema: schemaRef(m.Result.Schema)}
	for _, code := range m.Errors {
		out.Errors = append(out.Errors, rpcRef{"#/components/errors/" + errorName(code)})
	}
	return out
}

func schemaRef(name string) rpcRef { return rpcRef{"#/components/schemas/" + name} }

// errorName makes a component's name of a code: "E4001", "E32602".
func errorName(code int) string { return "E" + strings.TrimPrefix(fmt.Sprint(code), "-") }

// Markdown is the reference of all methods for docs/protocol.md, made from the same table
// as [OpenRPC].
func Markdown() string {
	var b strings.Builder
	b.WriteString("### Methods on agent.sock\n\n")
	writeMethods(&b, agentMethods())
	b.WriteString("\n### Methods that are refused (code 4200)\n\n| method | why |\n|---|---|\n")
	for _, m := range refusedMethods {
		fmt.Fprintf(&b, "| `%s` | %s |\n", m.Name, m.Why)
	}
	b.WriteString("\n### Methods on admin.sock\n\n`rpc_modules`, `rpc_discover` and `rpc_notifyWaiting` as above, and:\n\n")
	writeMethods(&b, adminMethods())
	b.WriteString("\n### Methods on approve.sock\n\n`rpc_modules`, `rpc_discover` and `rpc_notifyWaiting` as above, " +
		"and:\n\n")
	writeMethods(&b, approveMethods())
	b.WriteString("\n### Codes\n\n| code | meaning |\n|---|---|\n")
	for _, e := range errorMeanings {
		fmt.Fprintf(&b, "| %d | %s |\n", e.Code, e.Meaning)
	}
	return b.String()
}

func writeMethods(b *strings.Builder, methods []Method) {
	b.WriteString("| method | parameters | result |\n|---|---|---|\n")
	for _, m := range methods {
		fmt.Fprintf(b, "| `%s`: %s | %s | %s |\n", m.Name, m.Summary, markdownParams(m.Params), markdownResult(m.Result))
	}
}

func markdownParams(params []Param) string {
	if len(params) == 0 {
		return "–"
	}
	var parts []string
	for _, p := range params {
		name := p.Name
		if !p.Required {
			name += "?"
		}
		parts = append(parts, fmt.Sprintf("`%s` (%s): %s", name, p.Schema, p.Description))
	}
	return strings.Join(parts, "<br>")
}

func markdownResult(r Result) string {
	if r.Description == "" {
		return r.Schema
	}
	return r.Schema + ": " + r.Description
}
