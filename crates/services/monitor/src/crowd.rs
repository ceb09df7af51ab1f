//! How many requests of one address the API answers. An IPv6 client has a whole /64 to speak from, which counts as one.
use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};

/// Addresses kept before those that have not asked lately are forgotten.
const ADDRESSES_MAX: usize = 4096;

/// Who asked how often.
pub(crate) struct Crowd {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    pub(crate) per_minute: NonZeroU32,
}

impl Crowd {
    pub(crate) fn new(per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self { limiter: RateLimiter::keyed(Quota::per_minute(per_minute)), per_minute }
    }

    /// Counts a request. `Err`: it is one too many, and how long until the next is answered.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<(), Duration> {
        if self.limiter.len() >= ADDRESSES_MAX {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&network(address)).map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd() -> Crowd {
        Crowd::new(2)
    }

    fn answered(crowd: &Crowd, address: &str) -> bool {
        crowd.admit(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn each_address_has_its_own_requests_and_a_network_of_the_sixth_version_shares_them() {
        let crowd = crowd();
        let same = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"].map(|a| answered(&crowd, a));
        assert_eq!(same, [true, true, false, true]);
        let networks = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"].map(|a| answered(&crowd, a));
        assert_eq!(networks, [true, true, false, true]);
    }

    #[test]
    fn one_too_many_is_told_how_long_to_wait() {
        let crowd = crowd();
        let address = "10.0.0.1".parse().unwrap();
        assert!(crowd.admit(address).is_ok() && crowd.admit(address).is_ok());
        let wait = crowd.admit(address).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(30), "{wait:?}");
    }
}
