//! What the OSD map asks of clients that no kernel can do.

use serde::Deserialize;
use serde_json::json;

use crate::ceph::Cluster;
use crate::model::error::{DriverError, ErrorKind, Result};

/// The newest release of whose demands the kernel's client knows all.
const KERNEL: &str = "quincy";

#[derive(Deserialize)]
struct Dump {
    #[serde(default)]
    require_min_compat_client: String,
    #[serde(default)]
    pg_upmap_primaries: Vec<serde::de::IgnoredAny>,
}

/// Why kernel clients may hang or fail on this cluster; nothing when all is well.
pub(super) fn beyond_kernels(cluster: &Cluster) -> Result<Option<String>> {
    parse(&cluster.mon_command(&json!({"prefix": "osd dump", "format": "json"}))?)
}

fn parse(answer: &[u8]) -> Result<Option<String>> {
    let dump: Dump = serde_json::from_slice(answer).map_err(|e| {
        DriverError::new(ErrorKind::Failed, format!("the OSD map is not understood: {e}"))
            .hint("ceph osd dump shows it")
    })?;
    // Releases are called in the order of the alphabet.
    let newer =
        dump.require_min_compat_client.as_str() > KERNEL && dump.require_min_compat_client != "unknown";
    Ok(match dump.pg_upmap_primaries.len() {
        0 if newer => Some(format!(
            "the cluster wants clients of {} or newer (require_min_compat_client), which the kernel may not be",
            dump.require_min_compat_client
        )),
        0 => None,
        some => Some(format!(
            "the OSD map has {some} pg_upmap_primaries (the read balancer), which no kernel client knows; ceph osd rm-pg-upmap-primary takes them out"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_read_balancer_and_newer_clients_are_named() {
        let of = |text: &str| parse(text.as_bytes()).unwrap();
        assert_eq!(of(r#"{"require_min_compat_client":"luminous","pg_upmap_primaries":[]}"#), None);
        assert_eq!(of(r#"{"require_min_compat_client":"unknown"}"#), None);
        assert_eq!(of("{}"), None);
        for answer in ["", "{", "no JSON", r#"{"require_min_compat_client":7}"#] {
            let e = parse(answer.as_bytes()).unwrap_err().to_string();
            assert!(e.contains("not understood"), "{answer}: {e}");
        }
        assert!(of(r#"{"require_min_compat_client":"reef"}"#).unwrap().contains("reef"));
        let balanced =
            r#"{"require_min_compat_client":"reef","pg_upmap_primaries":[{"pgid":"2.0","primary_osd":1}]}"#;
        assert!(of(balanced).unwrap().contains("read balancer"));
    }
}
