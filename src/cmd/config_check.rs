//! `config check`: what the settings are, where each comes from, and all that is wrong with them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::output::{self, table};
use super::parts::Parts;
use crate::cli::values::Format;
use crate::config::{self, examine};
use crate::model::error::Result;
use crate::model::text::count;

#[derive(Debug, Serialize)]
struct Answer {
    settings: Vec<Setting>,
    warnings: Vec<String>,
    errors: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Setting {
    name: &'static str,
    value: String,
    from: String,
}

/// Prints them; the exit status says whether the daemon would start.
pub(super) fn run(parts: &Parts, flags: &BTreeMap<&'static str, String>, format: Format) -> Result<u8> {
    let all = examine::examine(flags, &config::environment()?);
    let mut errors: Vec<String> = all.errors.iter().map(ToString::to_string).collect();
    if let Some(Err(e)) = all.config.as_ref().map(parts.check) {
        errors.push(e.to_string());
    }
    let setting = |value: config::layers::Value| Setting {
        name: value.key,
        value: value.text,
        from: value.origin.to_string(),
    };
    let settings = all.values.into_iter().map(setting).collect();
    let answer = Answer { settings, warnings: all.warnings, errors };
    output::print(format, &answer, || text(&answer))?;
    Ok(if answer.errors.is_empty() { 0 } else { 2 })
}

fn text(answer: &Answer) -> String {
    let row = |setting: &Setting| {
        let value = if setting.value.is_empty() { "-" } else { &setting.value };
        vec![setting.name.to_owned(), value.to_owned(), setting.from.clone()]
    };
    let rows: Vec<Vec<String>> = answer.settings.iter().map(row).collect();
    let mut text = table(&["SETTING", "VALUE", "FROM"], &rows);
    text.push('\n');
    for warning in &answer.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for error in &answer.errors {
        text.push_str(&format!("error: {error}\n"));
    }
    let (warnings, errors) = (count(answer.warnings.len(), "warning"), count(answer.errors.len(), "error"));
    text + &format!("{warnings}, {errors}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_form() {
        let setting =
            |name, value: &str, from: &str| Setting { name, value: value.to_owned(), from: from.to_owned() };
        let answer = Answer {
            settings: vec![setting("pool", "ssd", "/c:3"), setting("pools", "", "the default")],
            warnings: vec!["say it otherwise".to_owned()],
            errors: vec![],
        };
        assert_eq!(
            text(&answer),
            "SETTING  VALUE  FROM\npool     ssd    /c:3\npools    -      the default\n\n\
             warning: say it otherwise\n1 warning, 0 errors\n"
        );
        assert_eq!(
            serde_json::to_value(&answer).unwrap(),
            serde_json::json!({
                "settings": [
                    {"name": "pool", "value": "ssd", "from": "/c:3"},
                    {"name": "pools", "value": "", "from": "the default"},
                ],
                "warnings": ["say it otherwise"],
                "errors": [],
            })
        );
    }
}
