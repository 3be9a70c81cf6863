"""Core: what every part shares below torch and grpc: errors, configuration, signing, ledgers, logs, telemetry."""
