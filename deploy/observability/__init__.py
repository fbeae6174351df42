"""Observability as code: scrape configuration, Jaeger, Grafana and the script of its dashboards."""
