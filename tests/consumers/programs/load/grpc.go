package main

import (
	"context"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	etcd "go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// grpcLoad is gRPC-Go with the resolver of etcd's own client and round_robin.
func grpcLoad(arguments []string) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(arguments[0], ",")})
	if err != nil {
		return err
	}
	builder, err := etcd.NewBuilder(client)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient("etcd:///"+arguments[1],
		grpc.WithResolvers(builder),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		return err
	}
	return load(check(connection))
}

// check is one call over a connection.
func check(connection grpc.ClientConnInterface) func(context.Context) error {
	client := grpc_health_v1.NewHealthClient(connection)
	return func(ctx context.Context) error {
		_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err
	}
}
