//! Where the monitors are, for the kernel: from the live monmap, which knows what a ceph.conf may not.

use serde::Deserialize;
use serde_json::json;

use crate::ceph::Cluster;
use crate::model::error::{DriverError, ErrorKind, Result};

/// The monitors' addresses by protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Monitors {
    legacy: Vec<String>,
    msgr2: Vec<String>,
    named: Vec<Monitor>,
}

/// One monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Its name.
    pub name: String,
    /// Its addresses: protocol (`v1`, `v2`) and `host:port`.
    pub addresses: Vec<(String, String)>,
}

impl Monitors {
    /// Each of them.
    pub(super) fn all(&self) -> &[Monitor] {
        &self.named
    }

    /// The addresses for a mapping with these options, and the option that the kernel needs with them, with the reason. The kernel
    /// speaks the old protocol, in clear, unless `ms_mode` says otherwise; `wire` is what the ceph.conf or the cluster says of the
    /// encryption of clients (`ms_client_mode`), and the monitors may have closed the old port.
    pub(super) fn for_options(&self, options: &[String], wire: &str) -> (&[String], Option<Added>) {
        let mode = options.iter().find_map(|option| option.strip_prefix("ms_mode="));
        let modes: Vec<&str> = wire.split([' ', ',']).filter(|mode| !mode.is_empty()).collect();
        match mode {
            Some("legacy") => (&self.legacy, None),
            Some(_) => (&self.msgr2, None),
            None if modes == ["secure"] => {
                (&self.msgr2, Some(Added { word: "ms_mode=secure", why: "ms_client_mode is secure" }))
            }
            None if modes.first() == Some(&"secure") && !self.msgr2.is_empty() => {
                let why = "ms_client_mode prefers secure";
                (&self.msgr2, Some(Added { word: "ms_mode=prefer-secure", why }))
            }
            None if self.legacy.is_empty() => {
                (&self.msgr2, Some(Added { word: "ms_mode=prefer-crc", why: "no monitor has a v1 address" }))
            }
            None => (&self.legacy, None),
        }
    }
}

/// An option that nobody gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// The option.
    pub word: &'static str,
    /// Why it is needed.
    pub why: &'static str,
}

#[derive(Deserialize)]
struct Dump {
    mons: Vec<Mon>,
}

#[derive(Deserialize)]
struct Mon {
    name: String,
    public_addrs: Vector,
}

#[derive(Deserialize)]
struct Vector {
    addrvec: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    r#type: String,
    addr: String,
}

/// Asks the cluster.
pub(super) fn of(cluster: &Cluster) -> Result<Monitors> {
    let answer = cluster.mon_command(&json!({"prefix": "mon dump", "format": "json"}))?;
    parse(&answer)
}

pub(super) fn parse(answer: &[u8]) -> Result<Monitors> {
    let dump: Dump = serde_json::from_slice(answer).map_err(|e| {
        DriverError::new(
            ErrorKind::Failed,
            format!("the monitors' list of themselves is not understood: {e}"),
        )
    })?;
    let mut monitors = Monitors::default();
    for mon in dump.mons {
        let addresses = mon.public_addrs.addrvec.into_iter().map(|address| (address.r#type, address.addr));
        let addresses: Vec<(String, String)> = addresses.collect();
        for (protocol, address) in &addresses {
            match protocol.as_str() {
                "v1" => monitors.legacy.push(address.clone()),
                "v2" => monitors.msgr2.push(address.clone()),
                _ => {}
            }
        }
        monitors.named.push(Monitor { name: mon.name, addresses });
    }
    Ok(monitors)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"{"epoch":1,"mons":[{"rank":0,"name":"a","public_addrs":{"addrvec":[
        {"type":"v2","addr":"10.0.0.1:3300","nonce":0},{"type":"v1","addr":"10.0.0.1:6789","nonce":0}]}},
        {"rank":1,"name":"b","public_addrs":{"addrvec":[{"type":"v2","addr":"[2001:db8::1]:3300","nonce":0},
        {"type":"v1","addr":"[2001:db8::1]:6789","nonce":0}]}}]}"#;

    fn option(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn the_mode_chooses_the_port() {
        let monitors = parse(DUMP.as_bytes()).unwrap();
        let old = ["10.0.0.1:6789", "[2001:db8::1]:6789"].map(str::to_owned);
        let new = ["10.0.0.1:3300", "[2001:db8::1]:3300"].map(str::to_owned);
        assert_eq!(monitors.all()[1].name, "b");
        assert_eq!(monitors.all()[0].addresses[1], ("v1".to_owned(), old[0].clone()));
        assert_eq!(monitors.for_options(&[], "crc secure"), (&old[..], None));
        assert_eq!(monitors.for_options(&option("ms_mode=legacy"), "secure"), (&old[..], None));
        assert_eq!(monitors.for_options(&option("ms_mode=secure"), ""), (&new[..], None));
        let added = |wire| monitors.for_options(&[], wire).1.map(|added| added.word);
        assert_eq!(added("secure"), Some("ms_mode=secure"), "nothing goes over the wire in clear");
        assert_eq!(added("secure crc"), Some("ms_mode=prefer-secure"));
        assert_eq!(added("crc"), None);
    }

    #[test]
    fn monitors_without_the_old_port_are_spoken_to_in_the_new_protocol() {
        let monitors = Monitors { msgr2: option("10.0.0.1:3300"), ..Monitors::default() };
        let (addresses, added) = monitors.for_options(&[], "crc secure");
        assert_eq!((addresses, added.unwrap().word), (&option("10.0.0.1:3300")[..], "ms_mode=prefer-crc"));
        assert!(parse(b"{}").is_err());
    }
}
