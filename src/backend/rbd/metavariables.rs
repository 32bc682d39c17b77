//! `$name` and `${name}` in the values of a ceph.conf, for the time before librados has read it: what the client is called, and every other
//! setting of the file.

use super::conf_text::Section;

/// Settings may name each other so many times over.
const DEPTH: usize = 8;

/// Who the client is.
#[derive(Debug)]
pub(super) struct Metavariables<'a> {
    pub(super) cluster: &'a str,
    /// Without `client.`.
    pub(super) user: &'a str,
    /// Without its domain.
    pub(super) host: &'a str,
    pub(super) sections: &'a [Section],
}

impl Metavariables<'_> {
    /// A value with all of them replaced; what is not known stays as it is.
    pub(super) fn expand(&self, text: &str) -> String {
        self.expand_within(text, DEPTH)
    }

    fn expand_within(&self, text: &str, depth: usize) -> String {
        let mut parts = text.split('$');
        let mut expanded = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = match part.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
                Some(both) => both,
                None => part
                    .split_at(part.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(part.len())),
            };
            match self.value(name).filter(|_| depth > 0) {
                Some(value) => {
                    expanded.push_str(&self.expand_within(&value, depth - 1));
                    expanded.push_str(rest);
                }
                None => {
                    expanded.push('$');
                    expanded.push_str(part);
                }
            }
        }
        expanded
    }

    fn value(&self, name: &str) -> Option<String> {
        Some(match name {
            "cluster" => self.cluster.to_owned(),
            "type" => "client".to_owned(),
            "id" => self.user.to_owned(),
            "name" => format!("client.{}", self.user),
            "pid" => std::process::id().to_string(),
            "host" => self.setting(name).unwrap_or_else(|| self.host.to_owned()),
            _ => return self.setting(name),
        })
    }

    /// The value of a setting: the user's own section goes first, and in each the last word counts.
    fn setting(&self, name: &str) -> Option<String> {
        let own = format!("client.{}", self.user);
        [own.as_str(), "client", "global"].iter().find_map(|section| {
            let sections = self.sections.iter().filter(|found| found.name == *section);
            let mut entries = sections.flat_map(|section| &section.entries);
            let last = entries.rfind(|entry| entry.name == name);
            last.map(|entry| String::from_utf8_lossy(entry.value.bytes()).into_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::rbd::conf_text::sections;

    #[test]
    fn names_are_replaced_as_librados_does() {
        let text = "[global]\nfsid = f-1\nrun dir = /run/$cluster\nloop = $loop\nhost = h\n\
                    [client]\nfsid = f-2\n[client.u]\nplace = ${run_dir}/$id\n";
        let sections = sections(text.as_bytes()).unwrap();
        let of = |sections, text: &str| {
            Metavariables { cluster: "c", user: "u", host: "short", sections }.expand(text)
        };
        for (text, want) in [
            ("/etc/$cluster.$name.keyring", "/etc/c.client.u.keyring"),
            ("/${type}/$id", "/client/u"),
            ("/k/$fsid.ring", "/k/f-2.ring"),
            ("$place/x", "/run/c/u/x"),
            ("/$host", "/h"),
            ("/$idx/$none/$", "/$idx/$none/$"),
            ("plain", "plain"),
        ] {
            assert_eq!(of(&sections, text), want, "{text}");
        }
        assert_eq!(of(&[], "/$host"), "/short");
        assert!(of(&sections, "$loop").len() < 99, "it ends");
    }
}
