package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// handled is one call as its handler sees it; written when the handler ends.
type handled struct {
	Side      string `json:"side"`
	ID        int    `json:"id"`
	Method    string `json:"method"`
	Code      *int   `json:"code"`
	RecvMsgs  int    `json:"recv_msgs"`
	RecvBytes int    `json:"recv_bytes"`
	SentMsgs  int    `json:"sent_msgs"`
	SentBytes int    `json:"sent_bytes"`
	Cancelled bool   `json:"cancelled"`
}

// stream counts what a handler receives and sends.
type stream struct {
	grpc.ServerStream
	call *handled
}

func (s stream) receive() ([]byte, error) {
	var message []byte
	if err := s.RecvMsg(&message); err != nil {
		return nil, err
	}
	s.call.RecvMsgs++
	s.call.RecvBytes += len(message)
	return message, nil
}

func (s stream) send(message []byte) error {
	if err := s.SendMsg(&message); err != nil {
		return err
	}
	s.call.SentMsgs++
	s.call.SentBytes += len(message)
	return nil
}

// written runs a handler and writes its truth.
func written(t *truth, method string, ctx context.Context, handle func(*handled) error) error {
	call := &handled{Side: "server", ID: -1, Method: "/" + service + "/" + method}
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md.Get("x-call-id")) == 1 {
		call.ID, _ = strconv.Atoi(md.Get("x-call-id")[0])
	}
	err := handle(call)
	if ctx.Err() != nil {
		call.Cancelled = true
	} else {
		code := int(status.Code(err))
		call.Code = &code
	}
	t.write(call)
	return err
}

func number(message []byte) int {
	n, _ := strconv.Atoi(string(message))
	return n
}

func numbers(message []byte) (a, b, c int) {
	parts := strings.Split(string(message), ",")
	if len(parts) == 3 {
		a, b, c = number([]byte(parts[0])), number([]byte(parts[1])), number([]byte(parts[2]))
	}
	return
}

type unaryHandler func(ctx context.Context, request []byte) ([]byte, error)

type streamHandler func(s stream) error

var unaryMethods = map[string]unaryHandler{
	"Unary": func(_ context.Context, request []byte) ([]byte, error) { return request, nil },
	"Big": func(_ context.Context, request []byte) ([]byte, error) {
		return bytes.Repeat([]byte("b"), number(request)), nil
	},
	"Slow": func(ctx context.Context, request []byte) ([]byte, error) {
		select {
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-time.After(time.Duration(number(request)) * time.Millisecond):
			return request, nil
		}
	},
	"Fail": func(ctx context.Context, request []byte) ([]byte, error) {
		if err := grpc.SetTrailer(ctx, metadata.Pairs("x-detail", "nope", "blob-bin", "\x00\x01\xff")); err != nil {
			return nil, err
		}
		return nil, status.Error(codes.Code(number(request)), failure)
	},
	"Metadata": func(ctx context.Context, request []byte) ([]byte, error) {
		if err := grpc.SendHeader(ctx, metadata.Pairs("x-init", "1", "x-init-bin", "\x00\xfe")); err != nil {
			return nil, err
		}
		return request, grpc.SetTrailer(ctx, metadata.Pairs("x-trail", strings.Repeat("t", 200)))
	},
}

var streamMethods = map[string]streamHandler{
	"ServerStream": func(s stream) error {
		request, err := s.receive()
		if err != nil {
			return err
		}
		count, size, pause := numbers(request)
		for range count {
			if err := s.send(bytes.Repeat([]byte("s"), size)); err != nil {
				return err
			}
			time.Sleep(time.Duration(pause) * time.Millisecond)
		}
		return nil
	},
	"FailAfter": func(s stream) error {
		request, err := s.receive()
		if err != nil {
			return err
		}
		count, size, code := numbers(request)
		for range count {
			if err := s.send(bytes.Repeat([]byte("s"), size)); err != nil {
				return err
			}
		}
		return status.Error(codes.Code(code), failure)
	},
	"ClientStream": func(s stream) error {
		for {
			if _, err := s.receive(); errors.Is(err, io.EOF) {
				return s.send([]byte(fmt.Sprint(s.call.RecvBytes)))
			} else if err != nil {
				return err
			}
		}
	},
	"Early": func(s stream) error {
		if _, err := s.receive(); err != nil {
			return err
		}
		return status.Error(codes.ResourceExhausted, "enough")
	},
	"EarlyOk": func(s stream) error {
		message, err := s.receive()
		if err != nil {
			return err
		}
		return s.send(message)
	},
	"Bidi": func(s stream) error {
		for {
			message, err := s.receive()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := s.send(message); err != nil {
				return err
			}
		}
	},
}

func unaryDesc(t *truth, name string, handle unaryHandler) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var request, reply []byte
		if err := decode(&request); err != nil {
			return nil, err
		}
		err := written(t, name, ctx, func(call *handled) error {
			call.RecvMsgs, call.RecvBytes = 1, len(request)
			answer, err := handle(ctx, request)
			if err != nil {
				return err
			}
			reply = answer
			call.SentMsgs, call.SentBytes = 1, len(answer)
			return nil
		})
		if err != nil {
			return nil, err
		}
		return &reply, nil
	}}
}

func streamDesc(t *truth, name string, handle streamHandler) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    name,
		ServerStreams: name == "ServerStream" || name == "FailAfter" || name == "Bidi",
		ClientStreams: name != "ServerStream" && name != "FailAfter",
		Handler: func(_ any, s grpc.ServerStream) error {
			return written(t, name, s.Context(), func(call *handled) error { return handle(stream{s, call}) })
		},
	}
}

func serve(unix string, port int, t *truth) {
	desc := grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil)}
	for name, handle := range unaryMethods {
		desc.Methods = append(desc.Methods, unaryDesc(t, name, handle))
	}
	for name, handle := range streamMethods {
		desc.Streams = append(desc.Streams, streamDesc(t, name, handle))
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	server.RegisterService(&desc, nil)
	network, address := "tcp", fmt.Sprintf("127.0.0.1:%d", port)
	if unix != "" {
		network, address = "unix", unix
	}
	listener, err := net.Listen(network, address)
	check(err)
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok {
		port = tcp.Port
	}
	say(map[string]any{"ready": true, "port": port, "pid": os.Getpid()})
	check(server.Serve(listener))
}
