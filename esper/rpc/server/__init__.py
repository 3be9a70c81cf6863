"""Serving over grpc: typed bases of the services, from a request's bytes to their methods, binding, draining."""
