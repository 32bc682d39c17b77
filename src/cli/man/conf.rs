//! rbd-docker-plugin.conf(5), from the table of keys.

use clap_mangen::roff::{Roff, bold, italic, roman};

use super::page::{DATE, MANUAL, NAME, Page, SOURCE};
use super::sections;
use crate::cli::texts::{AFTER_LONG_HELP, CONF_ABOUT};
use crate::config::keys::{self, CONF_FILE, KEYS, Key};

pub(super) fn page() -> Page {
    let title = format!("{NAME}.conf");
    let mut roff = Roff::new();
    roff.control("TH", [&title, "5", DATE, SOURCE, MANUAL]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{title} - settings of the Docker volume driver {NAME}"))]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([roman(keys::find(CONF_FILE).map_or("", |key| key.default))]);
    roff.control("SH", ["DESCRIPTION"]);
    for (at, paragraph) in CONF_ABOUT.split("\n\n").enumerate() {
        if at > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(paragraph)]);
    }
    let mut heading = None;
    for key in KEYS.iter().filter(|key| key.name != CONF_FILE) {
        let its = key.heading.unwrap_or("Old keys");
        if heading.replace(its) != Some(its) {
            roff.control("SH", [its.to_uppercase().as_str()]);
        }
        describe(key, &mut roff);
    }
    sections::named("ENVIRONMENT", AFTER_LONG_HELP).render(&mut roff);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(format!("{NAME}(8)"))]);
    Page { file: format!("{title}.5"), roff: roff.to_roff() }
}

fn describe(key: &Key, roff: &mut Roff) {
    roff.control("TP", []);
    roff.text([bold(key.name), roman("="), italic(key.value)]);
    roff.text([roman(sentence(key.help))]);
    let default = match key.default {
        "" if key.help.contains("[default:") => None,
        "" => Some("Default: none.".to_owned()),
        default => Some(format!("Default: {default}.")),
    };
    if let Some(default) = default {
        roff.text([roman(default)]);
    }
    if !key.aliases.is_empty() {
        roff.text([roman(format!("Also spelled {}.", key.aliases.join(", ")))]);
    }
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}
