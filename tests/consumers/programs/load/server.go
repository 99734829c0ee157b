package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// How long the server works on a call: so that a server that ends has calls under way.
const work = 10 * time.Millisecond

// serve answers gRPC and HTTP until SIGTERM and then ends at once, whatever is under way: what a server does that leaves
// draining to the preStop hook.
func serve(arguments []string) error {
	ip, grpcPort, httpPort := arguments[0], arguments[1], arguments[2]
	forGRPC, err := net.Listen("tcp", net.JoinHostPort(ip, grpcPort))
	if err != nil {
		return err
	}
	forHTTP, err := net.Listen("tcp", net.JoinHostPort(ip, httpPort))
	if err != nil {
		return err
	}
	worked := func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		time.Sleep(work)
		return handler(ctx, request)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(worked))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	answer := func(response http.ResponseWriter, _ *http.Request) {
		time.Sleep(work)
		response.WriteHeader(http.StatusOK)
	}
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(forGRPC) }()
	go func() { failed <- http.Serve(forHTTP, http.HandlerFunc(answer)) }()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	select {
	case <-ended:
		return nil
	case err := <-failed:
		return err
	}
}
