package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

// nextHop makes calls to the next hop.
type nextHop struct {
	conn  *grpc.ClientConn
	truth *provoked
	// made counts unary calls.
	made atomic.Int64
}

func retries(code string) grpc.DialOption {
	return grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {
		"maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "0.1s", "backoffMultiplier": 1.5,
		"retryableStatusCodes": ["` + code + `"]}}], "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1}}`)
}

func clientOptions(name string) []grpc.DialOption {
	switch name {
	case "retry_not_retryable":
		return []grpc.DialOption{retries("INVALID_ARGUMENT")}
	case "retry_storm":
		return []grpc.DialOption{retries("UNAVAILABLE")}
	case "too_many_pings":
		// The shortest that grpc-go takes.
		return []grpc.DialOption{grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, PermitWithoutStream: true,
		})}
	case "slow_reader":
		// Windows that do not grow.
		return []grpc.DialOption{grpc.WithInitialWindowSize(1 << 16), grpc.WithInitialConnWindowSize(1 << 20)}
	case "balanced", "healthy":
		return []grpc.DialOption{grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`)}
	}
	return nil
}

func dial(s scenario, t *provoked) *nextHop {
	addresses := manual.NewBuilderWithScheme("hop")
	var state resolver.State
	for _, address := range strings.Split(s.next, ",") {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	addresses.InitialState(state)
	options := append(clientOptions(s.name), grpc.WithResolvers(addresses), grpc.WithAuthority("hop.test"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	conn, err := grpc.NewClient("hop:///next", options...)
	check(err)
	return &nextHop{conn: conn, truth: t}
}

// call makes a unary call; `wrongly` names what it provokes besides a missing or an exceeded deadline.
func (n *nextHop) call(ctx context.Context, method, text, trace, wrongly string) (string, error) {
	since := time.Now()
	n.made.Add(1)
	if trace != "" {
		ctx = metadata.NewOutgoingContext(ctx, metadata.Pairs("traceparent", trace))
	}
	request, reply := []byte(text), []byte(nil)
	err := n.conn.Invoke(ctx, hopService+method, &request, &reply)
	if _, ok := ctx.Deadline(); !ok {
		n.truth.add(finding{Finding: "deadline_missing", Side: "client", Cause: "absent", Method: methodOf(method)}, since)
	}
	if status.Code(err) == codes.DeadlineExceeded {
		n.truth.add(finding{Finding: "deadline_exceeded", Side: "client", Method: methodOf(method)}, since)
	}
	if wrongly != "" {
		n.truth.add(finding{Finding: wrongly, Side: "client", Method: methodOf(method)}, since)
	}
	return string(reply), err
}

// close ends the connection and writes down how many calls there were.
func (n *nextHop) close() {
	_ = n.conn.Close()
	n.truth.write(map[string]any{"service": n.truth.name, "calls": n.made.Load()})
}

func (n *nextHop) stream(ctx context.Context, text string) (grpc.ClientStream, error) {
	stream, err := n.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, hopService+"List")
	if err != nil {
		return nil, err
	}
	request := []byte(text)
	if err := stream.SendMsg(&request); err != nil {
		return nil, err
	}
	return stream, stream.CloseSend()
}

// hop serves every method, by what the request's text says.
type hop struct {
	scenario scenario
	truth    *provoked
	next     *nextHop
	calls    atomic.Int64
}

func (h *hop) handle(_ any, stream grpc.ServerStream) error {
	since, ctx := time.Now(), stream.Context()
	full, _ := grpc.MethodFromServerStream(stream)
	method := strings.TrimPrefix(full, hopService)
	deadline, hasDeadline := ctx.Deadline()
	defer func() {
		if !hasDeadline {
			h.truth.add(finding{Finding: "deadline_missing", Side: "server", Cause: "absent", Method: methodOf(method)}, since)
		} else if ctx.Err() != nil && time.Since(since) > deadline.Sub(since)/2 {
			// A client that gives up by itself does so in the first half.
			h.truth.add(finding{Finding: "deadline_exceeded", Side: "server", Method: methodOf(method)}, since)
		}
	}()
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	if method == "List" {
		return list(stream, string(request))
	}
	reply, err := h.get(ctx, method, string(request))
	if err != nil {
		return err
	}
	answer := []byte(reply)
	return stream.SendMsg(&answer)
}

func list(stream grpc.ServerStream, text string) error {
	var op string
	var count, size int
	_, _ = fmt.Sscan(text, &op, &count, &size)
	for range count {
		message := bytes.Repeat([]byte("x"), size)
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
	if op == "endless" {
		<-stream.Context().Done()
		return status.FromContextError(stream.Context().Err()).Err()
	}
	return nil
}

func first(md metadata.MD, name string) string {
	if values := md.Get(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (h *hop) get(ctx context.Context, method, text string) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	words := append(strings.Fields(text), "", "")
	switch {
	case words[0] == "cancelled":
		return "", h.ignoreCancellation(ctx, first(md, "traceparent"))
	case h.next != nil:
		return h.handOn(ctx, method, text, first(md, "traceparent"))
	case words[0] == "slow":
		ms, _ := strconv.Atoi(words[1])
		time.Sleep(time.Duration(ms) * time.Millisecond)
	case words[0] == "hang":
		<-ctx.Done()
		return "", status.FromContextError(ctx.Err()).Err()
	case words[0] == "flaky":
		attempts, _ := strconv.Atoi(first(md, "grpc-previous-rpc-attempts"))
		failures, _ := strconv.Atoi(words[1])
		code, _ := strconv.Atoi(words[2])
		if attempts < failures {
			return "", status.Error(codes.Code(code), "try again")
		}
	case words[0] == "peer":
		p, _ := peer.FromContext(ctx)
		return p.Addr.String(), nil
	}
	return text, nil
}

// about is never twice the same: a round constant is a finding of its own.
func (h *hop) about(d time.Duration) time.Duration {
	return d + time.Millisecond*time.Duration(1+7*h.calls.Add(1))
}

// handOn calls the next hop. The context hands deadline and cancellation on, unless a fresh one is taken.
func (h *hop) handOn(ctx context.Context, method, text, trace string) (string, error) {
	switch h.scenario.name {
	case "deadline_reset":
		fresh, cancel := context.WithTimeout(context.Background(), h.about(2*generous))
		defer cancel()
		return h.next.call(fresh, method, text, trace, "deadline_reset")
	case "deadline_dropped":
		return h.next.call(context.Background(), method, text, trace, "deadline_dropped")
	}
	return h.next.call(ctx, method, text, trace, "")
}

func (h *hop) ignoreCancellation(ctx context.Context, trace string) error {
	deadline, _ := ctx.Deadline()
	stubborn, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	_, _ = h.next.call(stubborn, "Get", "ok", trace, "")
	say(map[string]any{"working": true})
	_, _ = h.next.call(stubborn, "Get", "slow 1500", trace, "uncancelled_call")
	<-ctx.Done()
	for range 2 {
		_, _ = h.next.call(stubborn, "Get", "ok", trace, "uncancelled_call")
	}
	return status.FromContextError(ctx.Err()).Err()
}
