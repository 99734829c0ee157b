// Prints the health of the Kubernetes object on its standard input, as a line of JSON with status and message.
//
//	health kstatus           by the library whose rules Flux and helm use
//	health flux EXPRESSIONS  by a file with an entry of a Kustomization's healthCheckExprs, as JSON, evaluated by Flux's code
//	health argocd SCRIPT     by a health check of Argo CD, in its interpreter
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	found, err := find(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func find(args []string) (health, error) {
	object := unstructured.Unstructured{}
	// Keeps integers integers, as kstatus expects them.
	if err := json.NewDecoder(os.Stdin).Decode(&object); err != nil {
		return health{}, err
	}
	switch {
	case len(args) == 1 && args[0] == "kstatus":
		computed, err := status.Compute(&object)
		if err != nil {
			return health{}, err
		}
		return health{computed.Status.String(), computed.Message}, nil
	case len(args) == 2 && args[0] == "flux":
		return expressions(args[1], &object)
	case len(args) == 2 && args[0] == "argocd":
		return script(args[1], object.Object)
	}
	return health{}, fmt.Errorf("usage: health kstatus | health flux EXPRESSIONS | health argocd SCRIPT")
}

func expressions(file string, object *unstructured.Unstructured) (health, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return health{}, err
	}
	var check kustomize.CustomHealthCheck
	if err := json.Unmarshal(text, &check); err != nil {
		return health{}, err
	}
	evaluator, err := cel.NewStatusEvaluator(&check.HealthCheckExpressions)
	if err != nil {
		return health{}, err
	}
	computed, err := evaluator.Evaluate(context.Background(), object)
	if err != nil {
		// As Flux's status reader reports it; Flux goes on waiting.
		return health{status.UnknownStatus.String(), err.Error()}, nil
	}
	return health{computed.Status.String(), computed.Message}, nil
}

func script(file string, object map[string]any) (health, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
	} {
		call := lua.P{Fn: state.NewFunction(open), Protect: true}
		if err := state.CallByParam(call, lua.LString(name)); err != nil {
			return health{}, err
		}
	}
	deadline, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	state.SetContext(deadline)
	state.SetGlobal("obj", value(state, object))
	if err := state.DoFile(file); err != nil {
		return health{}, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return health{}, fmt.Errorf("the script returned %s, no table", state.Get(-1).Type())
	}
	field := func(name string) string { return lua.LVAsString(table.RawGetString(name)) }
	return health{field("status"), field("message")}, nil
}

// Converts a value as Argo CD does.
func value(state *lua.LState, from any) lua.LValue {
	switch from := from.(type) {
	case bool:
		return lua.LBool(from)
	case float64:
		return lua.LNumber(from)
	case int64:
		return lua.LNumber(from)
	case string:
		return lua.LString(from)
	case []any:
		list := state.CreateTable(len(from), 0)
		for _, item := range from {
			list.Append(value(state, item))
		}
		return list
	case map[string]any:
		table := state.CreateTable(0, len(from))
		for name, item := range from {
			table.RawSetString(name, value(state, item))
		}
		return table
	}
	return lua.LNil
}
