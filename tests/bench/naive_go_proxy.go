// What one writes by hand with the official Go SDK: a Server in front, one client session per stdio server behind. A row
// of `python -m tests.bench.peers`. Build it in a module that requires github.com/modelcontextprotocol/go-sdk, as
// $MCPBENCH_LAB/bin/naive-go.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func main() {
	path := flag.String("config", "", "the {\"mcpServers\": …} that every MCP host reads")
	port := flag.Int("port", 0, "where to listen")
	flag.Parse()
	data, err := os.ReadFile(*path)
	check(err)
	var config struct {
		McpServers map[string]struct {
			Command string
			Args    []string
		}
	}
	check(json.Unmarshal(data, &config))
	us := &mcp.Implementation{Name: "naive-go", Version: "1"}
	front := mcp.NewServer(us, nil)
	var started sync.WaitGroup
	for name, server := range config.McpServers {
		started.Add(1)
		go func() {
			defer started.Done()
			add(front, mcp.NewClient(us, nil), name, exec.Command(server.Command, server.Args...))
		}()
	}
	started.Wait()
	options := &mcp.StreamableHTTPOptions{JSONResponse: true}
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return front }, options)
	check(http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *port), handler))
}

// add offers the tools of one server, each under its server's name.
func add(front *mcp.Server, client *mcp.Client, name string, command *exec.Cmd) {
	session, err := client.Connect(context.Background(), &mcp.CommandTransport{Command: command}, nil)
	check(err)
	listed, err := session.ListTools(context.Background(), nil)
	check(err)
	for _, tool := range listed.Tools {
		shown := *tool
		shown.Name = name + "__" + tool.Name
		front.AddTool(&shown, func(ctx context.Context, call *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return session.CallTool(ctx, &mcp.CallToolParams{Name: tool.Name, Arguments: call.Params.Arguments})
		})
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
