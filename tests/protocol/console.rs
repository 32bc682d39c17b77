//! How pages of the guide are read, see `tests/common/console.rs`.

use crate::pages::{Step, missing, steps};

#[test]
fn a_page_is_read() {
    let page = "# Title\n```console\nhost1# ls /\nbin\n…\n$ true\n```\ntext\n<!-- boot host1 -->\n```ini\na=b\n```\n";
    let command = |host: &str, command: &str, shown: &[&str], line| Step::Command {
        host: host.to_owned(),
        command: command.to_owned(),
        shown: shown.iter().map(|&line| line.to_owned()).collect(),
        line,
    };
    assert_eq!(
        steps(page),
        [
            command("host1", "ls /", &["bin", "…"], 3),
            command("", "true", &[], 6),
            Step::Event("boot host1".to_owned()),
            Step::Conf("a=b\n".to_owned()),
        ]
    );
}

#[test]
fn what_is_shown_is_looked_for_in_its_order() {
    let shown = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
    assert_eq!(missing(&shown(&["a", "…", "c… e"]), "x\na\nb\nc d e\n"), None);
    assert_eq!(missing(&shown(&["b", "a"]), "a\nb\n"), Some("a"));
    assert_eq!(missing(&shown(&["a"]), "ab\n"), Some("a"));
    assert_eq!(missing(&shown(&["a…"]), "ab\n"), None);
    assert_eq!(missing(&shown(&["…b"]), "abc\n"), Some("…b"));
    assert_eq!(missing(&shown(&["…b…"]), "abc\n"), None);
}
