//! What the fleet says: event payloads, names, contracts and the topology that follows from them. Pure data, no I/O.
