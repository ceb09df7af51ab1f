//! What every bot shares: contract, envelope, bus, delivery, jobs, breaker, health, configuration, telemetry.
