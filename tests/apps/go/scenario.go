package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// What a program does in a scenario: see ../README.md.
type scenario struct {
	name, next, callee string
	serve, noTrace     bool
	whileStdin         bool
	calls, concurrency int
	methods            int
	seconds, rate      float64
}

const (
	hopService = "/scenario.v1.Hop/"
	generous   = 20 * time.Second
	short      = 500 * time.Millisecond
	rounds     = 10
	limit      = 10
	// A reset of the last call shall reach the wire before the connection goes.
	linger = 200 * time.Millisecond
)

func runScenario(arguments []string) {
	var s scenario
	flags := flag.NewFlagSet("scenario", flag.ExitOnError)
	flags.StringVar(&s.name, "scenario", "", "what goes wrong")
	flags.BoolVar(&s.serve, "serve", false, "serve; with --next as a hop")
	flags.StringVar(&s.next, "next", "", "host:port of the next hop, several with commas")
	flags.StringVar(&s.callee, "callee", "callee", "name of the next hop")
	flags.IntVar(&s.calls, "calls", 0, "so many calls")
	flags.IntVar(&s.methods, "methods", 0, "names of methods, which repeat")
	flags.Float64Var(&s.seconds, "seconds", 0, "for so long")
	flags.Float64Var(&s.rate, "rate", 0, "calls a second")
	flags.IntVar(&s.concurrency, "concurrency", 1, "calls at once")
	flags.BoolVar(&s.noTrace, "no-trace", false, "send no traceparent")
	flags.BoolVar(&s.whileStdin, "while-stdin", false, "end with standard input")
	truthPath := flags.String("truth", "", "file of the truth")
	check(flags.Parse(arguments))
	t := &provoked{openTruth(*truthPath), os.Getenv("OTEL_SERVICE_NAME")}
	if s.serve {
		serveHop(s, t)
	} else {
		callHop(s, t)
	}
}

// provoked writes down the findings that the process provokes.
type provoked struct {
	*truth
	name string
}

// finding is a line of the truth.
type finding struct {
	Finding string `json:"finding"`
	Service string `json:"service"`
	Side    string `json:"side,omitempty"`
	Cause   string `json:"cause,omitempty"`
	Method  string `json:"rpc_method,omitempty"`
	From    int64  `json:"from_ns"`
	Until   int64  `json:"until_ns,omitempty"`
	Lasts   bool   `json:"lasts,omitempty"`
}

// add completes a finding that may have been there from `since` until now, or until the end where it lasts.
func (p *provoked) add(f finding, since time.Time) {
	f.From = since.UnixNano()
	if f.Service == "" {
		f.Service = p.name
	}
	if !f.Lasts {
		f.Until = time.Now().UnixNano()
	}
	p.write(f)
}

// methodOf is the full name without the leading slash.
func methodOf(method string) string { return hopService[1:] + method }

func serverOptions(name string) []grpc.ServerOption {
	switch name {
	case "stream_limit":
		return []grpc.ServerOption{grpc.MaxConcurrentStreams(limit)}
	case "max_connection_age":
		return []grpc.ServerOption{grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: time.Second, MaxConnectionAgeGrace: 5 * time.Second,
		})}
	}
	return nil
}

func serveHop(s scenario, t *provoked) {
	h := &hop{scenario: s, truth: t}
	if s.next != "" {
		h.next = dial(s, t)
	}
	server := grpc.NewServer(append(serverOptions(s.name), grpc.UnknownServiceHandler(h.handle))...)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	say(map[string]any{"ready": t.name, "address": listener.Addr().String(), "pid": os.Getpid()})
	go func() {
		if s.whileStdin {
			_, _ = io.Copy(io.Discard, os.Stdin)
			server.GracefulStop()
		}
	}()
	if err := server.Serve(listener); err != nil {
		check(fmt.Errorf("serve: %w", err))
	}
	if h.next != nil {
		h.next.close()
	}
}
