//! `fence` and `fence ls`: hosts that are shut out of the cluster.

use serde::Serialize;

use super::cluster::connect;
use super::lock::{Freed, consequences, listed, not_known};
use super::output::{self, table};
use super::parts::Parts;
use crate::cli::values::Format;
use crate::config::Config;
use crate::coordination::blocklist::{Fence, Reach};
use crate::model::error::Result;
use crate::model::text::count;

#[derive(Debug, Serialize)]
struct List<'a> {
    fences: &'a [Fence],
}

/// Shuts a host out; an error, too, when there may be more of it than could be looked at.
pub(super) fn host(parts: &Parts, config: &Config, host: &str, format: Format) -> Result<()> {
    let admin = connect(parts, config)?;
    let locks = admin.fence_host(host)?;
    let freed = &locks.found;
    let days = admin.fence_lasts().as_secs() / 86_400;
    let (damaged, unseen) = not_known(&locks, format);
    let mut answer = Freed::new(freed, true, days);
    answer.unseen = [damaged, unseen].concat();
    output::print(format, &answer, || {
        let (images, clients) = (count(freed.len(), "image"), count(answer.fenced.len(), "kernel client"));
        format!(
            "Host {host} is fenced: {clients} shut out, {images} freed.\n\n{}\n{}",
            listed(freed),
            consequences(&answer)
        )
    })?;
    locks.are_all()
}

/// Who is shut out.
pub(super) fn ls(parts: &Parts, config: &Config, format: Format) -> Result<()> {
    let fences = connect(parts, config)?.fences()?;
    output::print(format, &List { fences: &fences }, || listed_fences(&fences))
}

fn listed_fences(fences: &[Fence]) -> String {
    if fences.is_empty() {
        return "Nobody is shut out of the cluster.\n".to_owned();
    }
    let reach = |fence: &Fence| match fence.reach {
        Reach::Client => "one client",
        Reach::Host => "all of this host",
        Reach::Range => "all of this network",
    };
    let row = |fence: &Fence| vec![fence.address.clone(), fence.until.clone(), reach(fence).to_owned()];
    table(&["ADDRESS", "UNTIL", "SHUTS OUT"], &fences.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_form() {
        let fence = |address: &str, reach| Fence {
            address: address.to_owned(),
            until: "2026-11-21T09:53:19.5+0000".to_owned(),
            reach,
        };
        let fences = [fence("10.0.0.7:0/31", Reach::Client), fence("10.0.0.7:0/0", Reach::Host)];
        assert_eq!(
            listed_fences(&fences),
            "ADDRESS        UNTIL                       SHUTS OUT\n\
             10.0.0.7:0/31  2026-11-21T09:53:19.5+0000  one client\n\
             10.0.0.7:0/0   2026-11-21T09:53:19.5+0000  all of this host\n"
        );
        assert_eq!(
            serde_json::to_value(List { fences: &fences[..1] }).unwrap(),
            serde_json::json!({"fences": [{
                "address": "10.0.0.7:0/31", "until": "2026-11-21T09:53:19.5+0000", "reach": "client",
            }]})
        );
        assert_eq!(listed_fences(&[]), "Nobody is shut out of the cluster.\n");
    }
}
