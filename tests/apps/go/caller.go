package main

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/connectivity"
)

// caller does what the scenario is about.
type caller struct {
	scenario scenario
	truth    *provoked
	next     *nextHop
}

func callHop(s scenario, t *provoked) {
	c := &caller{s, t, dial(s, t)}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for c.next.conn.Connect(); c.next.conn.GetState() != connectivity.Ready; {
		if !c.next.conn.WaitForStateChange(ctx, c.next.conn.GetState()) {
			check(fmt.Errorf("no connection to %s in a minute", s.next))
		}
	}
	run, ok := map[string]func(){
		"no_deadline": c.noDeadline, "deadline_exceeded": c.deadlineExceeded,
		"deadline_reset": c.handedOn, "deadline_dropped": c.handedOn,
		"ignores_cancellation": c.ignoresCancellation, "retry_not_retryable": c.retryNotRetryable,
		"retry_storm": c.retryStorm, "max_connection_age": c.maxConnectionAge,
		"too_many_pings": c.tooManyPings, "stream_limit": c.streamLimit, "slow_reader": c.slowReader,
		"leaked_stream": c.leakedStream, "server_dies": c.serverDies, "pinned": c.pinned,
		"balanced": c.load, "healthy": c.load, "chain": c.load,
	}[s.name]
	if !ok {
		check(fmt.Errorf("no scenario %q", s.name))
	}
	run()
	time.Sleep(linger)
	c.next.close()
	say(map[string]any{"done": true})
}

func (c *caller) trace() string {
	if c.scenario.noTrace {
		return ""
	}
	return fmt.Sprintf("00-%016x%016x-%016x-01", rand.Uint64(), rand.Uint64(), rand.Uint64())
}

// get makes a call with a deadline, or without one for zero.
func (c *caller) get(text string, timeout time.Duration, method string) string {
	ctx, cancel := context.WithCancel(context.Background())
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), timeout)
	}
	defer cancel()
	reply, _ := c.next.call(ctx, method, text, c.trace(), "")
	return reply
}

// both writes down what is to be found at both ends.
func (c *caller) both(f finding, since time.Time) {
	f.Side = "client"
	c.truth.add(f, since)
	f.Side, f.Service = "server", c.scenario.callee
	c.truth.add(f, since)
}

func (c *caller) noDeadline() {
	for range rounds {
		c.get("ok", 0, "Get")
		c.get("ok", generous, "Get")
	}
}

func (c *caller) deadlineExceeded() {
	for range rounds {
		c.get("hang", short, "Get")
		c.get("ok", generous, "Get")
	}
}

func (c *caller) handedOn() {
	for range 2 * rounds {
		c.get("ok", generous, "Get")
	}
}

func (c *caller) ignoresCancellation() {
	for range rounds / 2 {
		ctx, cancel := context.WithTimeout(context.Background(), generous)
		time.AfterFunc(500*time.Millisecond, cancel)
		_, _ = c.next.call(ctx, "Get", "cancelled", c.trace(), "")
		time.Sleep(2 * time.Second)
	}
}

func (c *caller) retryNotRetryable() {
	for range rounds {
		since := time.Now()
		c.get("flaky 2 3", generous, "Get")
		for range 2 {
			c.both(finding{Finding: "retry_not_retryable", Method: methodOf("Get")}, since)
		}
	}
}

func (c *caller) retryStorm() {
	since := time.Now()
	for range 12 * rounds {
		c.get("flaky 2 14", generous, "Get")
	}
	c.both(finding{Finding: "retry_storm", Method: methodOf("Get"), Lasts: true}, since)
}

func (c *caller) maxConnectionAge() {
	since, peer := time.Now(), ""
	for changes := 4; changes > 0; time.Sleep(20 * time.Millisecond) {
		now := c.get("peer", generous, "Get")
		if peer != "" && now != "" && now != peer {
			c.both(finding{Finding: "goaway", Cause: "max_age"}, since)
			since, changes = time.Now(), changes-1
		}
		if now != "" {
			peer = now
		}
	}
}

func (c *caller) tooManyPings() {
	since, peer := time.Now(), c.get("peer", generous, "Get")
	// Calls reset the count of PINGs, so there are none until the connection must be gone: the third PING is one too many.
	time.Sleep(45 * time.Second)
	if c.get("peer", generous, "Get") != peer {
		c.both(finding{Finding: "connection_error", Cause: "too_many_pings"}, since)
	}
}

func (c *caller) streamLimit() {
	for range rounds / 2 {
		since := time.Now()
		var all sync.WaitGroup
		for n := range limit + 5 {
			if n == limit {
				time.Sleep(300 * time.Millisecond)
			}
			all.Add(1)
			go func() {
				defer all.Done()
				if n < limit {
					c.get("slow 1000", generous, "Get")
				} else {
					c.get("ok", generous, "Get")
				}
			}()
		}
		all.Wait()
		c.both(finding{Finding: "stream_limit", Cause: "at_limit"}, since)
	}
}

func (c *caller) slowReader() {
	for range rounds / 2 {
		ctx, cancel := context.WithTimeout(context.Background(), generous)
		stream, err := c.next.stream(ctx, "list 12 16384")
		check(err)
		var message []byte
		check(stream.RecvMsg(&message))
		stopped := time.Now()
		time.Sleep(2 * time.Second)
		c.both(finding{Finding: "flow_control_stall", Cause: "slow_receiver"}, stopped)
		for stream.RecvMsg(&message) == nil {
		}
		cancel()
	}
}

func (c *caller) leakedStream() {
	since := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), generous)
	time.AfterFunc(8*time.Second, cancel)
	_, _ = c.next.call(ctx, "Get", "hang", "", "")
	c.both(finding{Finding: "half_closed_leak", Cause: "server_silent", Method: methodOf("Get"), Lasts: true}, since)
}

func (c *caller) serverDies() {
	c.get("ok", generous, "Get")
	ctx, cancel := context.WithTimeout(context.Background(), generous)
	defer cancel()
	var all sync.WaitGroup
	var open sync.WaitGroup
	for range 5 {
		all.Add(1)
		open.Add(1)
		go func() {
			defer all.Done()
			stream, err := c.next.stream(ctx, "endless 1 10")
			check(err)
			var message []byte
			check(stream.RecvMsg(&message))
			since := time.Now()
			open.Done()
			_ = stream.RecvMsg(&message)
			c.both(finding{Finding: "abrupt_end", Cause: "connection_lost", Method: methodOf("List")}, since)
		}()
	}
	open.Wait()
	say(map[string]any{"open": true})
	all.Wait()
}

func (c *caller) pinned() {
	c.truth.add(finding{Finding: "pinned_connection", Side: "client", Lasts: true}, time.Now())
	c.load()
}

// load makes calls with a number in their method, so many at once: whose call a hop makes can be told by that.
func (c *caller) load() {
	var number atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for range c.scenario.concurrency {
		all.Add(1)
		go func() {
			defer all.Done()
			for made := 1; ; made++ {
				n := int(number.Add(1)) - 1
				if c.scenario.calls > 0 && n >= c.scenario.calls ||
					c.scenario.seconds > 0 && time.Since(begin).Seconds() > c.scenario.seconds {
					return
				}
				if c.scenario.calls > 0 {
					if c.scenario.methods > 0 {
						n %= c.scenario.methods
					}
					c.get("slow 5", generous, fmt.Sprint("C", n))
				} else {
					c.get("ok", generous, "Get")
				}
				if c.scenario.rate > 0 {
					gap := float64(c.scenario.concurrency) / c.scenario.rate * 1e9
					time.Sleep(time.Until(begin.Add(time.Duration(float64(made) * gap))))
				}
			}
		}()
	}
	all.Wait()
}
