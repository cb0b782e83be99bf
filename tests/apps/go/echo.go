// `app echo serve|call`: an echo for `cargo xtask bench overhead`, which does nothing besides: see tests/src/bin/overhead/load.
package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	echoMethod = "/bench.Echo/Unary"
	echoWarmUp = 250 * time.Millisecond
)

var echoMessage = bytes.Repeat([]byte("x"), 64)

func echoHandler(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var request []byte
	if err := decode(&request); err != nil {
		return nil, err
	}
	return &request, nil
}

func echoServe() {
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: echoHandler}},
	}, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	say(map[string]any{"ready": true, "port": listener.Addr().(*net.TCPAddr).Port})
	check(server.Serve(listener))
}

// echoCaller makes calls until the time is over and returns how long each took.
func echoCaller(conn *grpc.ClientConn, begin time.Time, length, interval time.Duration, place, places int) []time.Duration {
	until, turn := begin.Add(length), begin.Add(interval*time.Duration(place)/time.Duration(places))
	var times []time.Duration
	for {
		start := time.Now()
		if interval > 0 {
			if !turn.Before(until) || !start.Before(until) {
				return times
			}
			if pause := turn.Sub(start); pause > 0 {
				time.Sleep(pause)
				start = time.Now()
			} else {
				start = turn
			}
			turn = turn.Add(interval)
		} else if !start.Before(until) {
			return times
		}
		var reply []byte
		check(conn.Invoke(context.Background(), echoMethod, &echoMessage, &reply))
		times = append(times, time.Since(start))
		if !bytes.Equal(reply, echoMessage) {
			check(fmt.Errorf("the answer is another than was sent"))
		}
	}
}

func echoCalls(conns []*grpc.ClientConn, concurrency int, length, interval time.Duration) ([]time.Duration, time.Duration) {
	begin := time.Now()
	every := make([][]time.Duration, concurrency)
	var callers sync.WaitGroup
	for place := range concurrency {
		callers.Add(1)
		go func() {
			defer callers.Done()
			every[place] = echoCaller(conns[place%len(conns)], begin, length, interval, place, concurrency)
		}()
	}
	callers.Wait()
	took := time.Since(begin)
	var all []time.Duration
	for _, times := range every {
		all = append(all, times...)
	}
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	return all, took
}

func echoConn(target string) *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for conn.Connect(); conn.GetState() != connectivity.Ready; {
		if !conn.WaitForStateChange(ctx, conn.GetState()) {
			check(fmt.Errorf("no connection to %s in a minute", target))
		}
	}
	return conn
}

func echoCall(target string, connections, concurrency int) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var seconds, rate float64
		_, err := fmt.Sscan(lines.Text(), &seconds, &rate)
		check(err)
		var interval time.Duration
		if rate > 0 {
			interval = time.Duration(float64(concurrency) / rate * 1e9)
		}
		var conns []*grpc.ClientConn
		for range connections {
			conns = append(conns, echoConn(target))
		}
		before, _ := echoCalls(conns, concurrency, echoWarmUp, interval)
		say(map[string]any{"begin": true})
		times, took := echoCalls(conns, concurrency, time.Duration(seconds*1e9), interval)
		for _, conn := range conns {
			_ = conn.Close()
		}
		if len(times) == 0 {
			check(fmt.Errorf("no call was made"))
		}
		at := func(share float64) float64 {
			return float64(times[min(int(float64(len(times))*share), len(times)-1)].Nanoseconds()) / 1e3
		}
		say(map[string]any{"done": true, "calls": len(times), "seconds": took.Seconds(),
			"p50_us": at(0.5), "p99_us": at(0.99), "all": len(before) + len(times)})
	}
}

func runEcho(arguments []string) {
	if len(arguments) == 0 {
		check(fmt.Errorf("say `echo serve` or `echo call`"))
	}
	flags := flag.NewFlagSet(arguments[0], flag.ExitOnError)
	target := flags.String("target", "", "host:port of the server")
	connections := flags.Int("connections", 1, "connections to the server")
	concurrency := flags.Int("concurrency", 1, "calls at once")
	check(flags.Parse(arguments[1:]))
	switch arguments[0] {
	case "serve":
		echoServe()
	case "call":
		echoCall(*target, *connections, *concurrency)
	default:
		check(fmt.Errorf("say `echo serve` or `echo call`"))
	}
}
