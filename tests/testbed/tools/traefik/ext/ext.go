// Package ext stands in for a module that Traefik requires and no module proxy serves: Traefik's own go.mod replaces it by
// a folder, which is not part of Traefik's module. It is where other builds of Traefik add settings; Traefik has none.
package ext

// HTTP has no setting of routers and services.
type HTTP struct{}

// Router has no setting of a router.
type Router struct{}
