"""The public face over HTTP: dialects, health, metrics. Knows the service, and nothing of torch."""
