//! docs/metrics.md, the alerts and the dashboard speak of the metrics that there are, and of all of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::admin::Seen;

const DOCS: &str = include_str!("../../docs/metrics.md");
const ALERTS: &str = include_str!("../../packaging/monitoring/alerts.yml");
const DASHBOARD: &str = include_str!("../../packaging/monitoring/grafana-dashboard.json");
const PREFIX: &str = "rbd_docker_plugin_";
/// What Prometheus adds.
const ADDED: [&str; 2] = ["instance", "job"];

/// Type and labels of each documented family.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let (_, table) = DOCS.split_once("| name | type | labels |").expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert!(cells.len() == 7 && !cells[5].is_empty(), "{line}");
        let labels = cells[3].split(", ").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels))
    };
    rows.map(row).collect()
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The metrics in an expression, each with the labels that select it.
fn used(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices(PREFIX) {
        let rest = &expression[at + PREFIX.len()..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let selector = rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let labels = selector.map(|(selector, _)| selector.split(',')).into_iter().flatten();
        let label = |part: &str| part.trim().split(|c| !is_name(c)).next().unwrap().to_owned();
        found.push((rest[..end].to_owned(), labels.map(label).collect()));
    }
    found
}

/// The labels that a text groups by, or shows as `{{ $labels.x }}` or `{{x}}`.
fn shown(text: &str) -> BTreeSet<String> {
    let grouped = text.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    let mut labels: BTreeSet<String> =
        grouped.flat_map(|list| list.split(',')).map(|label| label.trim().to_owned()).collect();
    for inner in text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
        let inner = inner.trim();
        match inner.strip_prefix("$labels.") {
            Some(label) => drop(labels.insert(label.to_owned())),
            None if inner.starts_with('$') => {}
            None => drop(labels.insert(inner.to_owned())),
        }
    }
    labels
}

/// The samples of a family are called by its name, and those of a histogram by more.
fn family(name: &str, documented: &BTreeMap<String, (String, BTreeSet<String>)>) -> (String, bool) {
    for ending in ["_bucket", "_count", "_sum"] {
        if let Some(base) = name.strip_suffix(ending)
            && documented.get(base).is_some_and(|(kind, _)| kind == "histogram")
        {
            return (base.to_owned(), ending == "_bucket");
        }
    }
    (name.to_owned(), false)
}

/// Each metric is there, and has every label that is said of it.
fn check(what: &str, expression: &str, around: &str) {
    let documented = documented();
    let mut have: BTreeSet<String> = ADDED.map(str::to_owned).into();
    for (name, labels) in used(expression) {
        let (base, bucket) = family(&name, &documented);
        let Some((_, known)) = documented.get(&base) else { panic!("{what}: there is no {PREFIX}{name}") };
        let mut known = known.clone();
        known.extend(ADDED.map(str::to_owned));
        if bucket {
            known.insert("le".to_owned());
        }
        assert!(labels.is_subset(&known), "{what}: {name} has {known:?}, and not {labels:?}");
        have.extend(known);
    }
    let shown = shown(&format!("{expression} {around}"));
    assert!(shown.is_subset(&have), "{what}: {shown:?} are not all of {have:?}");
}

#[test]
fn what_is_exported_is_documented_and_the_other_way_round() {
    let seen = Seen::start(&[], &[]);
    seen.docker_asks("Create", &json!({"Name": "v"}));
    seen.docker_asks("Mount", &json!({"Name": "v", "ID": "1"}));
    let metrics = seen.metrics();
    let documented = documented();
    let mut exported: BTreeMap<String, String> = BTreeMap::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let name = name.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(exported.insert(name.to_owned(), kind.to_owned()), None, "{name} twice");
        assert!(metrics.contains(&format!("# HELP {PREFIX}{name} ")), "{name} has no help");
    }
    let kinds: BTreeMap<String, String> =
        documented.iter().map(|(name, (kind, _))| (name.clone(), kind.clone())).collect();
    assert_eq!(exported, kinds);
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = used(line).remove(0);
        let (base, bucket) = family(&name, &documented);
        let mut known = documented.get(&base).unwrap_or_else(|| panic!("{line}")).1.clone();
        if bucket {
            known.insert("le".to_owned());
        }
        assert_eq!(labels, known, "{line}");
    }
}

#[test]
fn the_alerts_speak_of_what_there_is() {
    let alerts: Vec<&str> = ALERTS.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 11, "{}", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        let (expression, rest) = alert.split_once("expr: ").unwrap().1.split_once("labels:\n").unwrap();
        assert!(expression.contains(PREFIX) || expression.contains("up{"), "{name}");
        check(name, expression, rest);
        for part in ["severity: ", "summary: \"", "command: \""] {
            assert!(rest.contains(part), "{name} has no {part}");
        }
    }
    for name in [
        "Down",
        "BackendDown",
        "ReadOnly",
        "NearlyFull",
        "Inodes",
        "Fenced",
        "Unsettled",
        "Slow",
        "Fail",
        "Heartbeat",
        "Stale",
    ] {
        assert!(ALERTS.lines().any(|line| line.contains("alert: ") && line.contains(name)), "{name}");
    }
}

#[test]
fn the_dashboard_shows_what_there_is_and_all_of_it() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let documented = documented();
    let mut seen = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            check(title, expression, target["legendFormat"].as_str().unwrap());
            seen.extend(used(expression).into_iter().map(|(name, _)| family(&name, &documented).0));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"].as_str().unwrap();
        check("a variable", query, "");
    }
    let all: BTreeSet<String> = documented.into_keys().collect();
    assert_eq!(seen, all, "each metric is in some panel");
}
