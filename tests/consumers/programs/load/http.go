package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
)

// httpLoad is net/http with a new connection for each call, to one of the addresses that a DNS server answers with. It
// picks one by itself: left to net.Dial, an address that refuses connections would be made up for by the next.
func httpLoad(arguments []string) error {
	server, name, port := arguments[0], arguments[1], arguments[2]
	var dialer net.Dialer
	resolver := net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, server)
		},
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return load(func(ctx context.Context) error {
		addresses, err := resolver.LookupNetIP(ctx, "ip4", name+".")
		if err != nil {
			return err
		}
		address := addresses[rand.IntN(len(addresses))].Unmap().String()
		return get(ctx, &client, net.JoinHostPort(address, port))
	})
}

// traefikLoad is net/http over Traefik, which picks the server of each call.
func traefikLoad(arguments []string) error {
	return load(func(ctx context.Context) error {
		return get(ctx, http.DefaultClient, arguments[0])
	})
}

// get is one call to a host and port.
func get(ctx context.Context, client *http.Client, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, response.Status)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
