//! Free ports on 127.0.0.1, picked where the system itself does not hand them out. No listening here.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

use rand::RngExt as _;

/// rabbitmqctl takes its own distribution port from here.
const RABBITMQCTL: Range<u16> = 35672..35683;
/// What a RabbitMQ installed on the machine would use, even if it is stopped just now.
const WELL_KNOWN: [u16; 5] = [4369, 5672, 15672, 15692, 25672];
const FLOOR: u16 = 10_240;
const EPHEMERAL_USUALLY: u16 = 32_768;
const TRIES: usize = 2_000;

/// Ports given out by this process and perhaps not yet bound: two callers must not get the same.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

#[derive(Debug, thiserror::Error)]
#[error(
    "expected a free port of 127.0.0.1 between {low} and {high}, and {tries} tries found none; \
     end programs that listen there (see `ss -ltn`)"
)]
pub struct PortError {
    low: u16,
    high: u16,
    tries: usize,
}

/// A port of 127.0.0.1 that nobody listens on and that this process has not given out before. Below the
/// ephemeral range where there is room, so that no outgoing connection takes it between two starts.
pub fn free_port() -> Result<u16, PortError> {
    let Range { start, end } = range_below(ephemeral_start());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = rand::rng();
    for _ in 0..TRIES {
        let port = rng.random_range(start..end);
        if !RABBITMQCTL.contains(&port) && !WELL_KNOWN.contains(&port) && !given.contains(&port) && is_free(port) {
            given.insert(port);
            return Ok(port);
        }
    }
    Err(PortError { low: start, high: end, tries: TRIES })
}

/// `N` different free ports, see [`free_port`].
pub fn free_ports<const N: usize>() -> Result<[u16; N], PortError> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = free_port()?;
    }
    Ok(ports)
}

/// Whether one could listen on `port` of 127.0.0.1 at this moment.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn range_below(ephemeral: u16) -> Range<u16> {
    if ephemeral > FLOOR + 2_000 {
        FLOOR..ephemeral
    } else {
        // A machine that hands out nearly everything: no quiet range exists, so take the upper half.
        EPHEMERAL_USUALLY..u16::MAX
    }
}

fn ephemeral_start() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(EPHEMERAL_USUALLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let ports: [u16; 16] = free_ports().unwrap();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        for port in ports {
            assert!(is_free(port));
        }
    }

    #[test]
    fn a_bound_port_is_not_free() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(held.local_addr().unwrap().port()));
    }

    #[test]
    fn the_range_is_below_the_ephemeral_one_when_there_is_room() {
        assert_eq!(range_below(32_768), FLOOR..32_768);
        assert_eq!(range_below(1_024), EPHEMERAL_USUALLY..u16::MAX);
    }
}
