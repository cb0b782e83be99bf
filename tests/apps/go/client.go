package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// planned is one line of the plan.
type planned struct {
	ID                  int    `json:"id"`
	Method              string `json:"method"`
	Type                string `json:"type"`
	TimeoutMs           *int64 `json:"timeout_ms"`
	Send                []any  `json:"send"`
	Metadata            string `json:"metadata"`
	CancelAfterMessages *int   `json:"cancel_after_messages"`
	CancelAfterMs       *int64 `json:"cancel_after_ms"`
}

// made is one line of the truth.
type made struct {
	Side      string `json:"side"`
	ID        int    `json:"id"`
	Method    string `json:"method"`
	Type      string `json:"type"`
	TimeoutNs *int64 `json:"timeout_ns"`
	Code      int    `json:"code"`
	Outcome   string `json:"outcome"`
	SentMsgs  int    `json:"sent_msgs"`
	SentBytes int    `json:"sent_bytes"`
	RecvMsgs  int    `json:"recv_msgs"`
	RecvBytes int    `json:"recv_bytes"`
	T0Ns      int64  `json:"t0_ns"`
	T1Ns      int64  `json:"t1_ns"`
	Cancelled bool   `json:"cancelled_by_client"`
}

func payload(message any) []byte {
	if text, ok := message.(string); ok {
		return []byte(text)
	}
	return bytes.Repeat([]byte("x"), int(message.(float64)))
}

func metadataOf(p planned) metadata.MD {
	md := metadata.Pairs("x-call-id", fmt.Sprint(p.ID))
	if p.Metadata != "none" {
		trace := new(big.Int).Mul(big.NewInt(int64(p.ID)), new(big.Int).SetUint64(0x9E3779B97F4A7C15))
		md.Set("traceparent", fmt.Sprintf("00-%032x-%016x-01", trace, p.ID+1))
	}
	if p.Metadata == "full" {
		blob := make([]byte, 20)
		for i := range blob {
			blob[i] = byte(i)
		}
		md.Set("k-bin", string(blob))
		md.Set("long", strings.Repeat("v", 300))
		md.Set("user-key", "user value")
	}
	return md
}

// makeCall makes one call and returns its truth.
func makeCall(conn *grpc.ClientConn, p planned) made {
	m := made{Side: "client", ID: p.ID, Method: "/" + service + "/" + p.Method, Type: p.Type}
	m.Cancelled = p.CancelAfterMessages != nil || p.CancelAfterMs != nil
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(context.Background(), metadataOf(p)))
	defer cancel()
	m.T0Ns = time.Now().UnixNano()
	if p.TimeoutMs != nil {
		timeout := time.Duration(*p.TimeoutMs) * time.Millisecond
		ns := timeout.Nanoseconds()
		m.TimeoutNs = &ns
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, timeout)
		defer stop()
	}
	if p.CancelAfterMs != nil {
		timer := time.AfterFunc(time.Duration(*p.CancelAfterMs)*time.Millisecond, cancel)
		defer timer.Stop()
	}
	var err error
	if p.Type == "unary" {
		request := payload(p.Send[0])
		m.SentMsgs, m.SentBytes = 1, len(request)
		var reply []byte
		if err = conn.Invoke(ctx, m.Method, &request, &reply); err == nil {
			m.RecvMsgs, m.RecvBytes = 1, len(reply)
		}
	} else {
		err = streamCall(ctx, cancel, conn, p, &m)
	}
	m.T1Ns = time.Now().UnixNano()
	m.Code = int(status.Code(err))
	switch m.Code {
	case 0:
		m.Outcome = "ok"
	case 1:
		m.Outcome = "cancelled"
	case 4:
		m.Outcome = "deadline"
	default:
		m.Outcome = "error"
	}
	return m
}

// streamCall sends the messages from a goroutine of its own while it receives.
func streamCall(ctx context.Context, cancel context.CancelFunc, conn *grpc.ClientConn, p planned, m *made) error {
	desc := &grpc.StreamDesc{ClientStreams: p.Type != "server_stream", ServerStreams: p.Type != "client_stream"}
	s, err := conn.NewStream(ctx, desc, m.Method)
	if err != nil {
		return err
	}
	var sending sync.WaitGroup
	sending.Add(1)
	go func() {
		defer sending.Done()
		for _, message := range p.Send {
			request := payload(message)
			m.SentMsgs++
			m.SentBytes += len(request)
			if s.SendMsg(&request) != nil {
				return
			}
		}
		_ = s.CloseSend()
	}()
	defer sending.Wait()
	for {
		var reply []byte
		if err := s.RecvMsg(&reply); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		m.RecvMsgs++
		m.RecvBytes += len(reply)
		if p.CancelAfterMessages != nil && m.RecvMsgs == *p.CancelAfterMessages {
			cancel()
		}
		if p.Type == "client_stream" {
			return nil
		}
	}
}

func run(conn *grpc.ClientConn, t *truth, calls []planned, concurrency int, rate float64) {
	begin := time.Now()
	waiting := make(chan int)
	var workers sync.WaitGroup
	for range concurrency {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for index := range waiting {
				t.write(makeCall(conn, calls[index]))
			}
		}()
	}
	for index := range calls {
		if rate > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(float64(index) / rate * 1e9))))
		}
		waiting <- index
	}
	close(waiting)
	workers.Wait()
}

func readPlan(path string) []planned {
	data, err := os.ReadFile(path)
	check(err)
	var calls []planned
	for _, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		var p planned
		check(json.Unmarshal(line, &p))
		calls = append(calls, p)
	}
	return calls
}

func client(unix, target, plan string, t *truth, concurrency int, rate float64, hold bool) {
	calls := readPlan(plan)
	address := "passthrough:///" + target
	if unix != "" {
		address = "unix:" + unix
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	check(err)
	say(map[string]any{"ready": true, "pid": os.Getpid()})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for conn.Connect(); conn.GetState() != connectivity.Ready; {
		if !conn.WaitForStateChange(ctx, conn.GetState()) {
			check(fmt.Errorf("no connection to %s in a minute", address))
		}
	}
	half := len(calls)
	if hold {
		half /= 2
	}
	run(conn, t, calls[:half], concurrency, rate)
	if hold {
		say(map[string]any{"held": true})
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		run(conn, t, calls[half:], concurrency, rate)
	}
	// A reset of the last call shall reach the wire before the connection goes.
	time.Sleep(200 * time.Millisecond)
	_ = conn.Close()
	say(map[string]any{"done": true, "calls": len(calls)})
}
