// The grpc-go test application: see ../README.md for its command lines, plan and truth.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"

	"google.golang.org/grpc/encoding"
)

const (
	service    = "live.test.Calls"
	failure    = "bad thing: 100% \u00fcn\u00efcode\nline2"
	maxMessage = 1 << 26
)

// raw passes message bytes through; registered under the name of the default codec.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return *(v.(*[]byte)), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*(v.(*[]byte)) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "proto" }

// truth is a file of JSON lines, whole after each line.
type truth struct {
	sync.Mutex
	file *os.File
}

func openTruth(path string) *truth {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	check(err)
	return &truth{file: file}
}

func (t *truth) write(record any) {
	line, err := json.Marshal(record)
	check(err)
	t.Lock()
	defer t.Unlock()
	_, err = t.file.Write(append(line, '\n'))
	check(err)
}

func say(record any) {
	line, err := json.Marshal(record)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	encoding.RegisterCodec(raw{})
	if len(os.Args) < 2 {
		check(fmt.Errorf("say `server`, `client`, `scenario` or `echo`"))
	}
	switch os.Args[1] {
	case "scenario":
		runScenario(os.Args[2:])
		return
	case "echo":
		runEcho(os.Args[2:])
		return
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	unix := flags.String("unix", "", "path of a Unix socket")
	truthPath := flags.String("truth", "", "file of the truth")
	port := flags.Int("port", 0, "port of the server")
	target := flags.String("target", "", "host:port of the server")
	plan := flags.String("plan", "", "file of the plan")
	concurrency := flags.Int("concurrency", 1, "calls at once")
	rate := flags.Float64("rate", 0, "calls a second")
	hold := flags.Bool("hold", false, "wait for a line on standard input after the first half")
	check(flags.Parse(os.Args[2:]))
	switch os.Args[1] {
	case "server":
		serve(*unix, *port, openTruth(*truthPath))
	case "client":
		client(*unix, *target, *plan, openTruth(*truthPath), *concurrency, *rate, *hold)
	default:
		check(fmt.Errorf("say `server`, `client`, `scenario` or `echo`"))
	}
}
