//! `ls`: all volumes, and where they are mounted.

use super::output::{self, table};
use crate::cli::values::Format;
use crate::cmd::admin_client::AdminClient;
use crate::config::Config;
use crate::frontend::admin::view::{VolumeView, Volumes};
use crate::model::error::Result;

pub(super) fn run(config: &Config, format: Format) -> Result<()> {
    let answer: Volumes = AdminClient::new(config)?.get("/v1/volumes")?;
    if let (Some(why), Format::Text) = (&answer.degraded, format) {
        eprintln!("rbd-docker-plugin: this is what was known before: {why}");
    }
    for left in answer.left_out.iter().filter(|_| matches!(format, Format::Text)) {
        eprintln!("rbd-docker-plugin: this may not be all: {left}");
    }
    for left in answer.no_volumes.iter().filter(|_| matches!(format, Format::Text)) {
        eprintln!("rbd-docker-plugin: {:?} is no volume: {}", left.image, left.why);
    }
    output::print(format, &answer, || listed(&answer.volumes))
}

fn listed(volumes: &[VolumeView]) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row = |volume: &VolumeView| {
        vec![
            volume.name.clone(),
            or_none(volume.image.clone()),
            or_none(volume.size.clone()),
            volume.mounts.to_string(),
            or_none(volume.mountpoint.as_ref().map(|at| at.display().to_string())),
        ]
    };
    let rows: Vec<Vec<String>> = volumes.iter().map(row).collect();
    table(&["NAME", "IMAGE", "SIZE", "MOUNTS", "MOUNTED ON"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let volume = VolumeView {
            name: "a".to_owned(),
            image: Some("rbd/a".to_owned()),
            size: Some("1G".to_owned()),
            mountpoint: Some("/m/a".into()),
            mounts: 2,
        };
        let bare = VolumeView { name: "b".to_owned(), image: None, size: None, mountpoint: None, mounts: 0 };
        assert_eq!(
            listed(&[volume, bare]),
            "NAME  IMAGE  SIZE  MOUNTS  MOUNTED ON\na     rbd/a  1G    2       /m/a\nb     -      -     0       -\n"
        );
    }
}
