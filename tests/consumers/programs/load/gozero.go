package main

import (
	"strings"

	"github.com/zeromicro/go-zero/core/conf"
	"github.com/zeromicro/go-zero/core/discov"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/zrpc"
)

// goZeroLoad is go-zero's zrpc client with its own discovery, balancer and breaker.
func goZeroLoad(arguments []string) error {
	// It writes its statistics to stdout.
	logx.Disable()
	var config zrpc.RpcClientConf
	if err := conf.FillDefault(&config); err != nil {
		return err
	}
	config.Etcd = discov.EtcdConf{Hosts: strings.Split(arguments[0], ","), Key: arguments[1]}
	config.Timeout = patience.Milliseconds()
	client, err := zrpc.NewClient(config)
	if err != nil {
		return err
	}
	return load(check(client.Conn()))
}
