package main

import (
	"context"
	"strings"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/client/genericclient"
	"github.com/cloudwego/kitex/pkg/generic"
	"github.com/cloudwego/kitex/transport"
	etcd "github.com/kitex-contrib/registry-etcd"
)

// kitexLoad is Kitex with the resolver of its etcd registry and its own balancer, over gRPC. Kitex's generic client needs
// no generated code: a request without fields has no bytes.
func kitexLoad(arguments []string) error {
	resolver, err := etcd.NewEtcdResolver(strings.Split(arguments[0], ","))
	if err != nil {
		return err
	}
	health := generic.BinaryPbGeneric("Health", "grpc.health.v1")
	client, err := genericclient.NewClient(arguments[1], health,
		client.WithResolver(resolver),
		client.WithTransportProtocol(transport.GRPC),
		client.WithRPCTimeout(patience))
	if err != nil {
		return err
	}
	return load(func(ctx context.Context) error {
		_, err := client.GenericCall(ctx, "Check", []byte{})
		return err
	})
}
