//! Pages of the guide as scripts: the commands that they show, what they show of their output, and what happens in between.

/// A step of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A line behind a prompt in a block of kind `console`.
    Command {
        /// Before the `#` or `$`: a host, or nothing.
        host: String,
        command: String,
        /// What is shown below it; `…` stands for anything.
        shown: Vec<String>,
        /// The number of the line.
        line: usize,
    },
    /// `<!-- words -->` on a line of its own: what is no command.
    Event(String),
    /// A block of kind `ini`.
    Conf(String),
}

/// The steps of a page, in its order.
pub(crate) fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut block: Option<&str> = None;
    for (at, line) in page.lines().enumerate() {
        match (block, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                block = Some(kind);
                if kind == "ini" {
                    steps.push(Step::Conf(String::new()));
                }
            }
            (Some(_), Some(_)) => block = None,
            (Some("console"), None) => match prompt(line) {
                Some((host, command)) => steps.push(Step::Command {
                    host: host.to_owned(),
                    command: command.to_owned(),
                    shown: Vec::new(),
                    line: at + 1,
                }),
                None => match steps.last_mut() {
                    Some(Step::Command { shown, .. }) => shown.push(line.to_owned()),
                    _ => panic!("line {}: output without a command: {line}", at + 1),
                },
            },
            (Some("ini"), None) => {
                if let Some(Step::Conf(text)) = steps.last_mut() {
                    *text += &format!("{line}\n");
                }
            }
            (Some(_), None) => {}
            (None, None) => {
                let event = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->"));
                steps.extend(event.map(|event| Step::Event(event.to_owned())));
            }
        }
    }
    steps
}

/// `host1# command`, `admin# command`, `# command`, and the same with `$`.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (host, command) = line.split_once(['#', '$'])?;
    let command = command.strip_prefix(' ')?;
    host.chars().all(|c| c.is_ascii_alphanumeric()).then_some((host, command))
}

/// The first line that is shown and was not printed, in the order in which they are shown.
pub(crate) fn missing<'a>(shown: &'a [String], printed: &str) -> Option<&'a str> {
    let mut printed = printed.lines();
    let has = |shown: &&String| shown.as_str() != "…" && !printed.any(|line| matches(shown, line));
    shown.iter().find(has).map(String::as_str)
}

fn matches(shown: &str, line: &str) -> bool {
    let Some((first, rest)) = shown.split_once('…') else { return shown == line };
    let Some(mut line) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = rest.split('…').collect();
    let Some((last, between)) = parts.split_last() else { return true };
    for part in between {
        match line.find(part) {
            Some(at) => line = &line[at + part.len()..],
            None => return false,
        }
    }
    line.ends_with(last)
}
