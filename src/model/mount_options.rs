//! The option strings of fstab, as flags of mount(2) and what the filesystem itself knows.

use sys_mount::MountFlags;

use crate::model::error::DriverError;

/// Mount options as the kernel wants them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What every filesystem knows.
    pub flags: MountFlags,
    /// What this filesystem knows: `discard,commit=5`.
    pub data: String,
}

impl Options {
    /// Whether the mount will be read-only.
    pub fn read_only(&self) -> bool {
        self.flags.contains(MountFlags::RDONLY)
    }

    /// The same options, read-only.
    #[must_use]
    pub fn make_read_only(mut self) -> Self {
        self.flags |= MountFlags::RDONLY;
        self
    }
}

/// Splits `noatime,discard` into flags and the filesystem's own options. Of two words that contradict each other the later
/// one counts. Words that would do something else than mount this device are refused; words that only steer mount(8) and
/// fstab (`_netdev`, `nofail`, `x-…`) mean nothing here and are dropped, as mount(8) drops them. Device nodes in a volume open no
/// device, unless `dev` is among the words.
pub fn parse(options: &str) -> Result<Options, DriverError> {
    let mut flags = MountFlags::NODEV;
    let mut data = Vec::new();
    if options.chars().any(char::is_control) {
        return Err(DriverError::invalid("mount options must not contain control characters"));
    }
    for word in words(options)? {
        let word = word.as_str();
        match word {
            "" => {
                return Err(DriverError::invalid(format!("mount options {options:?} contain an empty word"))
                    .hint("separate words by single commas: noatime,discard"));
            }
            "bind" | "rbind" | "move" | "remount" | "loop" | "shared" | "rshared" | "slave" | "rslave"
            | "private" | "rprivate" | "unbindable" | "runbindable" | "user" | "users" | "owner"
            | "group" => return Err(refused(word)),
            "defaults" | "auto" | "noauto" | "nouser" | "nofail" | "_netdev" => {}
            _ if word.starts_with("loop=")
                || word.starts_with("offset=")
                || word.starts_with("sizelimit=") =>
            {
                return Err(refused(word));
            }
            _ if word.starts_with("x-") || word.starts_with("X-") || word.starts_with("comment=") => {}
            _ => match flag(word) {
                Some((bits, true)) => flags.insert(bits),
                Some((bits, false)) => flags.remove(bits),
                None => data.push(word.to_owned()),
            },
        }
    }
    Ok(Options { flags, data: data.join(",") })
}

fn refused(word: &str) -> DriverError {
    DriverError::invalid(format!("mount option {word:?} cannot be used for a volume"))
        .hint("it would do something else than mount the image's device")
}

/// Splits at commas, but not within quotes, and not where a backslash is before the comma: `context="a:b,c"`, `context='a:b,c'` and
/// `context=a:b\,c` are one word, and so is `context=a:s0:c1,c2`, because no filesystem has an option of a category's name. The kernel
/// knows double quotes only.
fn words(options: &str) -> Result<Vec<String>, DriverError> {
    let mut words: Vec<String> = Vec::new();
    let (mut word, mut quote, mut escaped) = (String::new(), None, false);
    for c in options.chars() {
        match (c, quote) {
            _ if escaped => {
                escaped = false;
                word.push(c);
            }
            ('\\', _) => escaped = true,
            ('"' | '\'', None) => quote = Some(c),
            (_, Some(open)) if c == open => quote = None,
            (',', None) => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    if quote.is_some() || escaped {
        return Err(DriverError::invalid(format!("mount options {options:?} end within a quotation"))
            .hint("close the quotes: context=\"system_u:object_r:container_file_t:s0:c1,c2\""));
    }
    if !options.is_empty() {
        words.push(word);
    }
    let mut joined: Vec<String> = Vec::new();
    for word in words {
        match joined.last_mut() {
            Some(context) if is_context(context) && is_category(&word) => {
                context.push(',');
                context.push_str(&word);
            }
            _ => joined.push(word),
        }
    }
    joined.into_iter().map(quoted).collect()
}

/// A label of SELinux: `context=`, `fscontext=`, `defcontext=`, `rootcontext=`.
fn is_context(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(key, _)| ["context", "fscontext", "defcontext", "rootcontext"].contains(&key))
}

/// `c1`, `c0.c1023`.
fn is_category(word: &str) -> bool {
    let number = |part: &str| {
        part.strip_prefix('c').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    word.split('.').all(number)
}

/// As the kernel takes it: a value with a comma in double quotes.
fn quoted(word: String) -> Result<String, DriverError> {
    match word.split_once('=') {
        _ if word.contains('"') => Err(DriverError::invalid(format!("mount option {word:?} holds a quote"))
            .hint("the kernel takes no quotes within a value")),
        Some((key, value)) if value.contains(',') => Ok(format!("{key}=\"{value}\"")),
        _ => Ok(word),
    }
}

/// The flag that a word sets (`true`) or clears.
fn flag(word: &str) -> Option<(MountFlags, bool)> {
    use MountFlags as F;
    let other = MountFlags::from_bits_retain;
    Some(match word {
        "ro" => (F::RDONLY, true),
        "rw" => (F::RDONLY, false),
        "nosuid" => (F::NOSUID, true),
        "suid" => (F::NOSUID, false),
        "nodev" => (F::NODEV, true),
        "dev" => (F::NODEV, false),
        "noexec" => (F::NOEXEC, true),
        "exec" => (F::NOEXEC, false),
        "sync" => (F::SYNCHRONOUS, true),
        "async" => (F::SYNCHRONOUS, false),
        "dirsync" => (F::DIRSYNC, true),
        "mand" => (F::MANDLOCK, true),
        "nomand" => (F::MANDLOCK, false),
        "noatime" => (F::NOATIME, true),
        "atime" => (F::NOATIME, false),
        "nodiratime" => (F::NODIRATIME, true),
        "diratime" => (F::NODIRATIME, false),
        "relatime" => (F::RELATIME, true),
        "norelatime" => (F::RELATIME, false),
        "strictatime" => (F::STRICTATIME, true),
        "nostrictatime" => (F::STRICTATIME, false),
        "lazytime" => (other(libc::MS_LAZYTIME), true),
        "nolazytime" => (other(libc::MS_LAZYTIME), false),
        "iversion" => (other(libc::MS_I_VERSION), true),
        "noiversion" => (other(libc::MS_I_VERSION), false),
        "silent" => (F::SILENT, true),
        "loud" => (F::SILENT, false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn flags_and_data() {
        use MountFlags as F;
        for (text, flags, data) in [
            ("", F::empty(), ""),
            ("defaults", F::empty(), ""),
            ("ro", F::RDONLY, ""),
            ("ro,rw", F::empty(), ""),
            ("noatime,discard,nosuid,commit=5", F::NOATIME | F::NOSUID, "discard,commit=5"),
            ("noexec,exec,dirsync,sync", F::DIRSYNC | F::SYNCHRONOUS, ""),
            ("_netdev,nofail,x-systemd.device-timeout=5,nodev", F::empty(), ""),
            (r#"context="a:b,c",noatime"#, F::NOATIME, r#"context="a:b,c""#),
            (r"context='a:b,c',noatime", F::NOATIME, r#"context="a:b,c""#),
            (r"context=a:b\,c,noatime", F::NOATIME, r#"context="a:b,c""#),
            (r#""context=a:s0:c1,c2",ro"#, F::RDONLY, r#"context="a:s0:c1,c2""#),
            ("context=u:r:t:s0:c1,c2.c9,discard", F::empty(), r#"context="u:r:t:s0:c1,c2.c9",discard"#),
            (r#"context="u:r:t:s0""#, F::empty(), "context=u:r:t:s0"),
            ("lazytime", F::from_bits_retain(libc::MS_LAZYTIME), ""),
        ] {
            let flags = flags | F::NODEV;
            assert_eq!(parse(text).unwrap(), Options { flags, data: data.to_owned() }, "{text}");
        }
        assert_eq!(parse("dev").unwrap().flags, F::empty(), "only who asks for it gets device nodes");
        assert_eq!(parse("dev,nodev").unwrap().flags, F::NODEV);
    }

    #[test]
    fn what_is_no_mount_of_the_device_is_refused() {
        for text in [
            "bind",
            "rbind",
            "remount,ro",
            "move",
            "loop",
            "loop=/dev/loop1",
            "offset=512",
            "rshared",
            ",",
            "ro,",
            "a,,b",
            "a\0b",
            "user",
            "context=\"a:b,c",
            "context='a:b",
            "discard\\",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn unknown_words_reach_the_filesystem_in_order(list in proptest::collection::vec("zz[a-z]{1,6}(=[0-9]{1,3})?", 1..6)) {
            prop_assert_eq!(parse(&list.join(",")).unwrap().data, list.join(","));
        }
    }
}
