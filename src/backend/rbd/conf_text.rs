//! The text of keyrings and of ceph.conf, read as Ceph's own parser reads it: what it takes is taken, what it refuses is refused
//! with the line.
//!
//! The rules, which no manual tells: `#` and `;` begin a remark anywhere outside of a backslash; a backslash at the end of a line
//! joins the next one, any other takes the character after it as it is; blanks stand around names, `=` and values, but not inside
//! of the brackets of a section; a value may be in quotes, with no remark in them; every line ends with a line end, the last one
//! too; a file may begin with empty lines but not with blanks, nor with a byte order mark.

use crate::linux::wipe::Wiped;

/// A section and what is in it, in the order of the file.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) entries: Vec<Entry>,
}

/// `name = value`; blanks inside of the name are underscores.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) value: Wiped,
    pub(super) line: usize,
}

/// What is wrong, and in which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) what: &'static str,
    /// Whether librados must not see it: it does not refuse such a file but ends the whole program by a failed assertion.
    pub(super) deadly: bool,
}

/// What is wrong with a file that librados must not see.
const BEYOND_ASCII: &str =
    "a character beyond ASCII outside of quotes and remarks, which ends a program that uses librados";

/// Reads all of it.
pub(super) fn sections(text: &[u8]) -> Result<Vec<Section>, Mistake> {
    if let Err(e) = std::str::from_utf8(text) {
        return Err(Reader { text, at: e.valid_up_to(), beyond: None }.mistake("it is not UTF-8"));
    }
    let mut reader = Reader { text, at: 0, beyond: None };
    let read = read(&mut reader);
    match reader.beyond {
        Some(at) => {
            let mark = at == 0 && text.starts_with("\u{feff}".as_bytes());
            let what = if mark { "a byte order mark, which Ceph does not take" } else { BEYOND_ASCII };
            Err(Mistake { deadly: true, ..Reader { at, ..reader }.mistake(what) })
        }
        None => read,
    }
}

fn read(reader: &mut Reader<'_>) -> Result<Vec<Section>, Mistake> {
    // A file of one line needs no section.
    if let Some(entry) = reader.entry()? {
        let found = vec![Section { name: "global".to_owned(), line: entry.line, entries: vec![entry] }];
        return reader.end(found, "no section is begun: [client.NAME]");
    }
    while reader.next_eol() {}
    let mut found = Vec::new();
    while let Some((name, line)) = reader.heading()? {
        let mut entries = Vec::new();
        while !reader.is_heading() {
            let Some(entry) = reader.entry()? else { break };
            entries.push(entry);
        }
        while reader.next_eol() {}
        found.push(Section { name, line, entries });
    }
    reader.end(found, "neither [section] nor name = value")
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the first character is that librados asks for being a blank and must not.
    beyond: Option<usize>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn eol(&mut self) -> bool {
        let returned = self.take(b'\r');
        self.take(b'\n') || returned
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        if self.peek().is_some_and(|byte| !byte.is_ascii()) {
            self.beyond = self.beyond.or(Some(self.at));
        }
    }

    /// Leaves out remarks, with the blanks before them, and joined lines.
    fn skip(&mut self) {
        loop {
            let begin = self.at;
            if self.take(b'\\') && self.eol() {
                continue;
            }
            self.at = begin;
            self.blanks();
            if !matches!(self.peek(), Some(b'#' | b';')) {
                self.at = begin;
                return;
            }
            while !matches!(self.peek(), None | Some(b'\r' | b'\n')) {
                self.at += 1;
            }
        }
    }

    /// A character of a name or a value.
    fn text_char(&mut self) -> Option<u8> {
        let byte = match (self.peek()?, self.text.get(self.at + 1).copied()) {
            (b'\\', Some(next)) if !matches!(next, b'\r' | b'\n') => {
                self.at += 1;
                next
            }
            (b'#' | b';' | b'\r' | b'\n', _) => return None,
            (byte, _) => byte,
        };
        self.at += 1;
        Some(byte)
    }

    fn next_eol(&mut self) -> bool {
        self.skip();
        self.eol()
    }

    /// The end of a line with something in it, and all empty lines behind it.
    fn line_ends(&mut self) -> Result<(), Mistake> {
        let mut lines = 0;
        loop {
            self.skip();
            let begin = self.at;
            self.blanks();
            if !self.eol() {
                self.at = begin;
                break;
            }
            lines += 1;
        }
        match (lines, self.peek()) {
            (1.., _) => Ok(()),
            (_, None) => Err(self.mistake("the last line has no line end")),
            _ => Err(self.mistake("something stands behind the end of it")),
        }
    }

    fn is_heading(&mut self) -> bool {
        self.skip();
        self.peek() == Some(b'[')
    }

    fn heading(&mut self) -> Result<Option<(String, usize)>, Mistake> {
        if !self.is_heading() {
            return Ok(None);
        }
        let line = self.line();
        self.at += 1;
        let mut name = Vec::new();
        loop {
            self.skip();
            if self.peek() == Some(b']') {
                break;
            }
            let Some(byte) = self.text_char() else { break };
            name.push(byte);
        }
        if name.is_empty() || !self.take(b']') {
            return Err(Mistake {
                line,
                deadly: false,
                what: "a section is not closed by ] in the same line",
            });
        }
        self.line_ends()?;
        Ok(Some((String::from_utf8_lossy(&name).into_owned(), line)))
    }

    /// `name = value`; nothing, and nothing read, where there is none.
    fn entry(&mut self) -> Result<Option<Entry>, Mistake> {
        let begin = self.at;
        self.skip();
        self.blanks();
        self.skip();
        let line = self.line();
        let Some(name) = self.name() else {
            self.at = begin;
            return Ok(None);
        };
        self.skip();
        self.blanks();
        self.skip();
        if !self.take(b'=') {
            self.at = begin;
            return Ok(None);
        }
        self.skip();
        self.blanks();
        let value = self.value()?;
        self.line_ends()?;
        Ok(Some(Entry { name, value, line }))
    }

    fn name(&mut self) -> Option<String> {
        let begin = self.at;
        let mut end = self.word()?;
        loop {
            let mut blanks = 0;
            loop {
                self.skip();
                if !matches!(self.peek(), Some(b' ' | b'\t')) {
                    break;
                }
                self.at += 1;
                blanks += 1;
            }
            let Some(more) = (blanks > 0).then(|| self.word()).flatten() else { break };
            end = more;
        }
        self.at = end;
        let name = String::from_utf8_lossy(self.text.get(begin..end)?).into_owned();
        Some(name.split_whitespace().collect::<Vec<_>>().join("_"))
    }

    /// Where a word of a name ends. A tab is a part of it, as far as Ceph is concerned.
    fn word(&mut self) -> Option<usize> {
        let mut end = None;
        loop {
            self.skip();
            if matches!(self.peek(), Some(b'=' | b'[' | b' ')) || self.text_char().is_none() {
                return end;
            }
            end = Some(self.at);
        }
    }

    fn value(&mut self) -> Result<Wiped, Mistake> {
        self.skip();
        let mut value = Wiped::with_capacity(self.text.len() - self.at + 1);
        if let Some(quote @ (b'"' | b'\'')) = self.peek() {
            self.at += 1;
            while self.peek() != Some(quote) {
                let Some(byte) = self.text_char() else {
                    return Err(self.mistake("a quote is not closed before the end of the line or a remark"));
                };
                value.push(byte);
            }
            self.at += 1;
        } else {
            loop {
                self.skip();
                let Some(byte) = self.text_char() else { break };
                value.push(byte);
            }
        }
        Ok(trimmed(value))
    }

    fn end<T>(&mut self, found: T, what: &'static str) -> Result<T, Mistake> {
        self.skip();
        if self.at == self.text.len() { Ok(found) } else { Err(self.mistake(what)) }
    }

    fn line(&self) -> usize {
        let before = self.text.get(..self.at).unwrap_or_default();
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    fn mistake(&self, what: &'static str) -> Mistake {
        Mistake { line: self.line(), what, deadly: false }
    }
}

fn trimmed(value: Wiped) -> Wiped {
    let space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let bytes = value.bytes();
    let begin = bytes.iter().take_while(|byte| space(byte)).count();
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| space(byte)).count();
    let mut inner = Wiped::with_capacity(end.saturating_sub(begin));
    bytes.get(begin..end).unwrap_or_default().iter().for_each(|&byte| inner.push(byte));
    inner
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::ceph::{Conf, Connect};

    /// The value of `key` for client.a, as we read it.
    fn ours(text: &[u8]) -> Result<Option<String>, Mistake> {
        let mut found = [None, None, None];
        for section in sections(text)? {
            let Some(rank) = ["client.a", "client", "global"].iter().position(|name| *name == section.name)
            else {
                continue;
            };
            for entry in section.entries.iter().filter(|entry| entry.name == "key") {
                if let Some(slot) = found.get_mut(rank) {
                    *slot = Some(String::from_utf8_lossy(entry.value.bytes()).into_owned());
                }
            }
        }
        Ok(found.into_iter().flatten().next())
    }

    /// The same, as librados reads it; nothing when it refuses the file.
    fn ceph(text: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("file");
        std::fs::write(&conf, text).unwrap();
        let options = Connect {
            conf,
            user: "a".to_owned(),
            keyring: Some(PathBuf::from("/none")),
            cluster: String::new(),
            timeout: Duration::from_secs(1),
        };
        Conf::read(&options).ok().map(|conf| conf.get("key").unwrap_or_default())
    }

    fn compare(text: &[u8]) {
        let (ours, ceph) = (ours(text), ceph(text));
        let shown = String::from_utf8_lossy(text);
        assert_eq!(ours.clone().ok().map(Option::unwrap_or_default), ceph, "{shown:?}: {ours:?}");
    }

    #[test]
    fn ceph_reads_these_files_as_we_do() {
        for text in [
            "[client.a]\n\tkey = AAA==\n\tcaps mon = \"allow r\"\n",
            "[client.a] # made by ops\nkey = AAA==\n",
            "[client.a]\nkey = AAA== ; 2025 rotation\n",
            "[client.a]\r\nkey = AAA==\r\n",
            "[client.a]\nkey=AAA==\n",
            "[client.b]\nkey = BBB\n\n[client.a]\nkey = AAA==   \n   \n",
            "[client.a]\nkey = \"é\" # Größe\n",
            "[client.a]\nkey = \\\nAAA==\n",
            "[client.a]\nkey = AA\\\nA==\n",
            "[ client.a ]\nkey = AAA==\n",
            "[client.a]\nkey = AAA==",
            "[client.a]\nkey = 'AAA=='\n",
            "[client.a]\nkey = \"AAA== # no\"\n",
            "[client.a]\nkey = \"AAA==\" # yes\n",
            "[client.a]\nkey = \"AAA==\n",
            "[client.a]\nkey = \"AAA==\" BBB\n",
            "  [client.a]\nkey = AAA==\n",
            "\n\n# remark\n[client.a]\n\n  key = AAA==\n",
            "  # remark\n[client.a]\nkey = AAA==\n",
            "key = AAA==\n",
            "key = AAA==\n[client.a]\nkey = BBB\n",
            "[client.a]\nkey = AAA==\nkey = BBB\n",
            "[client.a]\nkey = AAA==\n[client.b]\nkey = CCC\n[client.a]\nkey = BBB\n",
            "[client.a]\nkey\n",
            "[client.a\nkey = AAA==\n",
            "[]\nkey = AAA==\n",
            "[client.a]\nkey\t=\tAAA==\n",
            "[client.a]\nkey = A\\;A\\#A\n",
            "[client.a]\nkey =\n",
            "[client]\nkey = CCC\n[global]\nkey = GGG\n[client.a]\n",
            "# only a remark",
            "",
        ] {
            compare(text.as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
        #[test]
        fn ceph_reads_any_file_as_we_do(parts in proptest::collection::vec(prop::sample::select(vec![
            "[client.a]", "[client]", "[global]", "[client.b]", "key", "=", " = ", "AAA", "==", " ", "\t", "\n", "\n", "\r\n",
            "#", ";", "\\", "\"", "'", "[", "]", "caps mon", "[client.a]\n", "key = AAA==\n", "k e\ty",
        ]), 0..14)) {
            compare(parts.concat().as_bytes());
        }
    }

    #[test]
    fn a_mistake_has_its_line() {
        for (text, line, what) in [
            ("[client.a]\n\nkey AAA\n", 3, "neither"),
            ("[client.a]\nkey = AAA==", 2, "no line end"),
            ("[client.a]\nkey = \"AAA\n", 2, "quote"),
            ("\n[client.a\n", 2, "not closed"),
            ("\u{feff}[client.a]\n", 1, "byte order mark"),
        ] {
            let mistake = sections(text.as_bytes()).unwrap_err();
            assert!(mistake.line == line && mistake.what.contains(what), "{text:?}: {mistake:?}");
        }
        assert_eq!(sections(b"[a]\nb = \xff\n").unwrap_err().line, 2);
        let deadly = |text: &str| sections(text.as_bytes()).is_err_and(|mistake| mistake.deadly);
        assert!(
            deadly("\u{feff}[a]\n") && deadly("[a]\nb = é\n") && deadly("[é]\n") && deadly("[a]\né = 1\n")
        );
        assert!(!deadly("[a]\nb = 'é' # é\n") && !deadly("[a\n"));
    }
}
