//! Whom an address stands for.

use std::net::{IpAddr, Ipv6Addr};

/// What has a quota of its own: an IPv4 address, or the IPv6 network of 64 bits that one customer is given (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self(Ipv6Addr::from(network).into())
            }
            v4 => Self(v4),
        }
    }
}
