// A consumer: gRPC-Go with the resolver of etcd's own client and round_robin, both as they are. It calls the service
// without pause and prints, a line each, every set of addresses that the resolver hands to gRPC and every call that
// failed, and from time to time whom it has reached.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	etcd "go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
)

var output sync.Mutex

func say(line any) {
	output.Lock()
	defer output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		log.Fatal(err)
	}
}

// listened is etcd's resolver with somebody who listens to what it tells gRPC.
type listened struct{ resolver.Builder }

func (l listened) Build(target resolver.Target, cc resolver.ClientConn, options resolver.BuildOptions) (resolver.Resolver, error) {
	return l.Builder.Build(target, ear{cc}, options)
}

type ear struct{ resolver.ClientConn }

func (e ear) UpdateState(state resolver.State) error {
	addresses := []string{}
	for _, endpoint := range state.Endpoints {
		for _, address := range endpoint.Addresses {
			addresses = append(addresses, address.Addr)
		}
	}
	sort.Strings(addresses)
	say(map[string]any{"addresses": addresses})
	return e.ClientConn.UpdateState(state)
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: client ETCD[,ETCD...] TARGET")
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(os.Args[1], ",")})
	if err != nil {
		log.Fatal(err)
	}
	builder, err := etcd.NewBuilder(client)
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient("etcd:///"+os.Args[2],
		grpc.WithResolvers(listened{builder}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		log.Fatal(err)
	}
	health := grpc_health_v1.NewHealthClient(connection)
	reached := map[string]int{}
	told := time.Now()
	for {
		var server peer.Peer
		call, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := health.Check(call, &grpc_health_v1.HealthCheckRequest{}, grpc.Peer(&server))
		cancel()
		if err != nil {
			say(map[string]any{"failed": err.Error()})
			// A failure is told at once; a service without a server would otherwise fill the log.
			time.Sleep(50 * time.Millisecond)
		} else {
			reached[server.Addr.String()]++
		}
		if time.Since(told) > 200*time.Millisecond {
			say(map[string]any{"reached": reached})
			told = time.Now()
		}
		time.Sleep(2 * time.Millisecond)
	}
}
