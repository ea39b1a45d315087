"""Envoy's configuration, written from `extproc.yaml`. Never on the request path."""
