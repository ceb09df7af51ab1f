//! What a fleet stands on: packages unpacked without root, private RabbitMQ nodes, and the topology applied through the management API.
