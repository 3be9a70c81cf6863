"""What tools/genmonitoring writes for Prometheus and Grafana: tables of objectives and panels over the registries."""
