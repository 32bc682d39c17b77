//! The cluster's blocklist: which clients may not use the cluster any more.
//!
//! The monitors print an entry in one of three forms, and the OSDs refuse a client when any of them covers its address:
//!
//! ```text
//! 10.0.0.7:0/3120      one client: address, port and nonce are equal
//! 10.0.0.7:0/0         every client of that host
//! 10.1.0.0:0/24        every client of that network; such entries are in a second list, of ranges
//! ```

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::error::{DriverError, ErrorKind, Result};

/// How many clients an entry shuts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// One.
    Client,
    /// All of one host.
    Host,
    /// All of a network.
    Range,
}

/// An entry of the blocklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fence {
    /// `10.0.0.7:0/3120`, `10.0.0.7:0/0`, or `10.1.0.0/24` for a network.
    pub address: String,
    /// Until when, as the monitors write it.
    pub until: String,
    /// Whom it shuts out.
    pub reach: Reach,
}

impl Fence {
    /// The command that ends it.
    pub fn end(&self) -> String {
        match self.reach {
            Reach::Range => format!("ceph osd blocklist range rm {}", self.address),
            Reach::Client | Reach::Host => format!("ceph osd blocklist rm {}", self.address),
        }
    }
}

/// An entry as the monitors write it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    One { addr: String, until: String },
    Range { range: String, until: String },
}

/// Address, port and nonce of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Address {
    ip: IpAddr,
    port: u16,
    nonce: u64,
}

impl Address {
    /// `10.0.0.7:0/3120`, `[fd00::7]:0/3120`, `fd00::7`; with the protocol before it or without.
    fn parse(text: &str) -> Option<Self> {
        let plain = ["v1:", "v2:", "any:", "cidr:"].into_iter().find_map(|word| text.strip_prefix(word));
        let plain = plain.unwrap_or(text);
        let (place, nonce) = plain.split_once('/').unwrap_or((plain, "0"));
        let (ip, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((ip, port)) => (ip, port.strip_prefix(':').unwrap_or("0")),
            // Without brackets, all of it is an address of version 6.
            None if place.matches(':').count() > 1 => (place, "0"),
            None => place.split_once(':').unwrap_or((place, "0")),
        };
        let ip = ip.split('%').next()?.parse().ok()?;
        Some(Self { ip, port: port.parse().ok()?, nonce: nonce.parse().ok()? })
    }

    fn host(self) -> Self {
        Self { port: 0, nonce: 0, ..self }
    }

    /// Whether an address is in this network, whose length is written as the nonce.
    fn contains(self, ip: IpAddr) -> bool {
        let (network, address, bits) = match (self.ip, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => (u32::from(network).into(), u32::from(ip).into(), 32),
            (IpAddr::V6(network), IpAddr::V6(ip)) => (u128::from(network), u128::from(ip), 128),
            _ => return false,
        };
        let apart = u128::BITS - u128::leading_zeros(network ^ address);
        self.nonce <= bits && u64::from(apart) <= bits - self.nonce
    }
}

/// The list as it was read.
#[derive(Debug, Clone, Default)]
pub struct Blocklist {
    fences: Vec<Fence>,
    /// Where in the list an address is.
    known: HashMap<Address, usize>,
    ranges: Vec<(Address, usize)>,
}

impl Blocklist {
    /// What `osd blocklist ls` answers as JSON: one list of clients and hosts, and after it, from monitors that know ranges, one of ranges.
    pub fn parse(answer: &[u8]) -> Result<Self> {
        let mut list = Self::default();
        for entries in serde_json::Deserializer::from_slice(answer).into_iter::<Vec<Entry>>() {
            let entries = entries.map_err(|e| {
                let message = format!("the cluster's blocklist is not understood: {e}");
                DriverError::new(ErrorKind::Failed, message).hint("ceph osd blocklist ls shows it")
            })?;
            entries.into_iter().for_each(|entry| list.add(entry));
        }
        Ok(list)
    }

    /// A list of these entries, and until when they count.
    #[cfg(any(test, feature = "fault-points"))]
    pub(super) fn of(entries: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut list = Self::default();
        entries.into_iter().for_each(|(addr, until)| list.add(Entry::One { addr, until }));
        list
    }

    fn add(&mut self, entry: Entry) {
        let at = self.fences.len();
        let (text, until, range) = match entry {
            Entry::One { addr, until } => (addr, until, false),
            Entry::Range { range, until } => (range, until, true),
        };
        let fence = match Address::parse(&text) {
            Some(network) if range || text.starts_with("cidr:") => {
                self.ranges.push((network, at));
                let address = format!("{}/{}", network.ip, network.nonce);
                Fence { address, until, reach: Reach::Range }
            }
            Some(address) => {
                self.known.insert(address, at);
                let reach = if address == address.host() { Reach::Host } else { Reach::Client };
                Fence { address: text, until, reach }
            }
            // Shown, and equal to nobody's address.
            None => Fence { address: text, until, reach: Reach::Client },
        };
        self.fences.push(fence);
    }

    /// The entry that shuts a client out, if one does.
    pub fn covers(&self, client: &str) -> Option<&Fence> {
        let client = Address::parse(client)?;
        let network =
            || self.ranges.iter().find(|(network, _)| network.contains(client.ip)).map(|(_, at)| at);
        let at = self.known.get(&client).or_else(|| self.known.get(&client.host())).or_else(network)?;
        self.fences.get(*at)
    }

    /// All entries.
    pub fn into_fences(self) -> Vec<Fence> {
        self.fences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `ceph osd blocklist ls -f json` answered on clusters of these versions.
    const RECORDED: [(&str, &[u8]); 2] = [
        ("16.2.15", include_bytes!("../../tests/data/blocklist-16.2.15.json")),
        ("18.2.7", include_bytes!("../../tests/data/blocklist-18.2.7.json")),
    ];

    fn by<'a>(list: &'a Blocklist, client: &str) -> Option<(&'a str, Reach)> {
        list.covers(client).map(|fence| (fence.address.as_str(), fence.reach))
    }

    #[test]
    fn what_monitors_print_is_understood_in_every_form() {
        for (version, answer) in RECORDED {
            let list = Blocklist::parse(answer).unwrap_or_else(|e| panic!("{version}: {e}"));
            let one = Some(("10.0.0.1:0/3120", Reach::Client));
            for client in ["10.0.0.1:0/3120", "v1:10.0.0.1:0/3120", "v2:10.0.0.1:0/3120"] {
                assert_eq!(by(&list, client), one, "{version}");
            }
            assert_eq!(by(&list, "10.0.0.1:0/3121"), None, "{version}: another client of that host");
            for client in ["10.0.0.2:0/1", "10.0.0.2:6789/99", "v1:10.0.0.2:0/0"] {
                assert_eq!(by(&list, client), Some(("10.0.0.2:0/0", Reach::Host)), "{version}");
            }
            assert_eq!(by(&list, "[fd00::7]:0/77"), Some(("[fd00::7]:0/77", Reach::Client)), "{version}");
            assert_eq!(by(&list, "[fd00::7]:0/78"), None, "{version}");
            assert_eq!(by(&list, "[fd00::8]:0/5"), Some(("[fd00::8]:0/0", Reach::Host)), "{version}");
            assert_eq!(by(&list, "10.0.0.5:6801/1"), None, "{version}: only a whole host has no nonce");
            assert_eq!(by(&list, "10.1.0.200:0/7"), Some(("10.1.0.0/24", Reach::Range)), "{version}");
            assert_eq!(by(&list, "10.1.1.0:0/24"), None, "{version}");
            let range = list.covers("10.1.0.200:0/7").unwrap();
            assert_eq!(range.end(), "ceph osd blocklist range rm 10.1.0.0/24");
        }
    }

    #[test]
    fn addresses_of_version_six_are_alike_with_brackets_and_without() {
        let list = Blocklist::parse(br#"[{"addr":"fd00::8","until":"x"}]"#).unwrap();
        assert!(list.covers("[fd00::8]:0/5").is_some() && list.covers("[fd00::9]:0/5").is_none());
        let ranges = br#"[][{"range":"[fd00:1::]:0/32","until":"x"},{"range":"0.0.0.0:0/0","until":"x"}]"#;
        let list = Blocklist::parse(ranges).unwrap();
        assert_eq!(by(&list, "[fd00:1:2::9]:0/5"), Some(("fd00:1::/32", Reach::Range)));
        assert_eq!(by(&list, "[fd00:2::9]:0/5"), None);
        assert_eq!(by(&list, "192.0.2.1:0/5"), Some(("0.0.0.0/0", Reach::Range)), "every host");
    }

    #[test]
    fn an_empty_list_shuts_nobody_out_and_what_is_no_list_is_an_error() {
        for answer in [&b""[..], b"[]", b"[][]", b"[]\n[]\n"] {
            assert_eq!(Blocklist::parse(answer).unwrap().covers("10.0.0.1:0/1"), None);
        }
        for answer in [&b"listed 0 entries"[..], b"[{}]", b"[", b"[1]", b"{\"addr\":1}"] {
            Blocklist::parse(answer).unwrap_err();
        }
        let odd = Blocklist::parse(br#"[{"addr":"somewhere","until":"x"}]"#).unwrap();
        assert_eq!(odd.covers("somewhere"), None);
        assert_eq!(odd.into_fences()[0].address, "somewhere", "it is shown as it is");
    }
}
