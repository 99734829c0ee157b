// The two sides of a rollout: `load server` is a pod of a service, and the other subcommands are its consumers, each with
// the client library of its ecosystem as it is. A consumer calls at a steady rate until SIGTERM and prints, as a line of
// JSON, how many calls it made and how many of them failed. It repeats no call by itself.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	// Between two calls of a consumer.
	pause = 10 * time.Millisecond
	// How long one call may take. Long, because the machine may be busy: a slow call is no failed call.
	patience = 20 * time.Second
	// How many calls of a consumer may be under way.
	parallel = 64
	// How many failures are printed word for word.
	printed = 5
)

const usage = `usage:
  load server IP GRPC-PORT HTTP-PORT
  load grpc ETCD[,ETCD...] TARGET
  load go-zero ETCD[,ETCD...] KEY
  load kitex ETCD[,ETCD...] SERVICE
  load http DNS-SERVER NAME PORT
  load traefik ADDRESS`

func main() {
	subcommands := map[string]struct {
		arguments int
		run       func([]string) error
	}{
		"server":  {3, serve},
		"grpc":    {2, grpcLoad},
		"go-zero": {2, goZeroLoad},
		"kitex":   {2, kitexLoad},
		"http":    {3, httpLoad},
		"traefik": {1, traefikLoad},
	}
	if len(os.Args) < 2 {
		log.Fatal(usage)
	}
	subcommand, known := subcommands[os.Args[1]]
	if !known || len(os.Args) != 2+subcommand.arguments {
		log.Fatal(usage)
	}
	if err := subcommand.run(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

// A counter of calls and of those that failed.
type counter struct {
	mutex    sync.Mutex
	Calls    int      `json:"calls"`
	Failed   int      `json:"failed"`
	Failures []string `json:"first_failures"`
}

func (c *counter) count(began time.Time, err error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.Calls++
	if err == nil {
		return
	}
	c.Failed++
	if len(c.Failures) < printed {
		c.Failures = append(c.Failures, began.Format("15:04:05.000")+" "+err.Error())
	}
}

// load calls until SIGTERM, waits for the calls that are under way, and prints the counts. Calls count from the first
// that succeeds on: before it the consumer has not found the service yet.
func load(call func(context.Context) error) error {
	bounded := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return call(ctx)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	for bounded() != nil {
		time.Sleep(pause)
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]bool{"found": true}); err != nil {
		return err
	}
	counts := counter{Failures: []string{}}
	slots := make(chan struct{}, parallel)
	ticks := time.NewTicker(pause)
	var calls sync.WaitGroup
	for {
		select {
		case <-ended:
			calls.Wait()
			return json.NewEncoder(os.Stdout).Encode(&counts)
		case <-ticks.C:
			slots <- struct{}{}
			calls.Go(func() {
				began := time.Now()
				counts.count(began, bounded())
				<-slots
			})
		}
	}
}
