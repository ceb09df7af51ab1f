//! MonitorBot watches: heartbeats, correlations, health, metrics, alerts.
