//! A text of `--help` as sections of a manual page.
//!
//! A heading stands at the margin. Below it, two blanks in: paragraphs; terms whose meaning follows on the same line at the column
//! of [`MEANING`], or on the next one, further in. Examples stay as they are.

use clap_mangen::roff::{Roff, bold, roman};

/// What stands for the margin of a section's lines.
const MARGIN: usize = 2;
/// Where a meaning begins, counted from there.
const MEANING: usize = 20;
/// What is this far in belongs to the term above it.
const BELOW: usize = 4;

/// One section.
#[derive(Debug, Clone, Default)]
pub(super) struct Section<'a> {
    pub(super) heading: &'a str,
    lines: Vec<&'a str>,
}

/// All sections, in their order.
pub(super) fn of(text: &str) -> impl Iterator<Item = Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in text.lines() {
        if !line.is_empty() && !line.starts_with(' ') {
            sections.push(Section { heading: line, lines: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.lines.push(line.get(MARGIN..).unwrap_or_default());
        }
    }
    sections.into_iter()
}

/// The section of this heading; an empty one when there is none.
pub(super) fn named<'a>(heading: &str, text: &'a str) -> Section<'a> {
    of(text).find(|section| section.heading == heading).unwrap_or_default()
}

/// What a line is.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Blank,
    Term(&'a str, Option<&'a str>),
    Further(&'a str),
    Plain(&'a str),
}

impl Section<'_> {
    /// Its lines as one.
    pub(super) fn body(&self) -> String {
        self.lines.join(" ").trim().to_owned()
    }

    pub(super) fn render(&self, roff: &mut Roff) {
        roff.control("SH", [self.heading]);
        if self.heading == "EXAMPLES" {
            roff.control("nf", []);
            self.lines.iter().for_each(|line| {
                roff.text([roman(*line)]);
            });
            roff.control("fi", []);
            return;
        }
        let mut in_paragraph = true;
        for (at, line) in self.lines.iter().enumerate() {
            match read(line, self.lines.get(at + 1).copied().unwrap_or_default()) {
                Line::Blank => in_paragraph = false,
                Line::Term(term, meaning) => {
                    roff.control("TP", []);
                    roff.text([bold(term)]);
                    meaning.into_iter().for_each(|text| {
                        roff.text([roman(text)]);
                    });
                    in_paragraph = false;
                }
                Line::Further(text) => {
                    roff.text([roman(text)]);
                }
                Line::Plain(text) => {
                    if !in_paragraph {
                        roff.control("PP", []);
                    }
                    roff.text([roman(text)]);
                    in_paragraph = true;
                }
            }
        }
    }
}

fn read<'a>(line: &'a str, next: &str) -> Line<'a> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    match line.split_at_checked(MEANING) {
        _ if line.trim().is_empty() => Line::Blank,
        _ if indent(line) >= BELOW => Line::Further(line.trim()),
        Some((term, meaning)) if term.ends_with("  ") && !meaning.starts_with(' ') => {
            Line::Term(term.trim_end(), Some(meaning))
        }
        _ if indent(next) >= BELOW => Line::Term(line, None),
        _ => Line::Plain(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
FIRST
  A paragraph of
  two lines.
  size=SIZE           Its size
                      in MiB
  object-size=SIZE  stripe-unit=SIZE  stripe-count=N
                      Layout
  After it.

EXAMPLES
  Verbatim:
    ls -l

SEE ALSO
  ls(1),
  cat(1)";

    #[test]
    fn terms_and_paragraphs_are_told_apart() {
        let mut roff = Roff::new();
        of(TEXT).for_each(|section| section.render(&mut roff));
        let expected = "\
.SH FIRST
A paragraph of
two lines.
.TP
\\fBsize=SIZE\\fR
Its size
in MiB
.TP
\\fBobject\\-size=SIZE  stripe\\-unit=SIZE  stripe\\-count=N\\fR
Layout
.PP
After it.
.SH EXAMPLES
.nf
Verbatim:
  ls \\-l

.fi
.SH \"SEE ALSO\"
ls(1),
cat(1)
";
        let rendered = roff.render();
        assert!(rendered.ends_with(expected), "{rendered}");
    }

    #[test]
    fn a_section_by_its_name() {
        assert_eq!(named("SEE ALSO", TEXT).body(), "ls(1), cat(1)");
        assert_eq!(named("NOTHING", TEXT).heading, "");
    }
}
