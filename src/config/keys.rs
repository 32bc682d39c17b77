//! Every setting there is, once: its name, its other spellings, its default and its line in `--help`.
//!
//! The command line, the environment, the configuration file and the help all come from this table.

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The flag without its dashes, the key in the configuration file.
    pub name: &'static str,
    /// Other spellings, from the READMEs and plugins that people come from.
    pub aliases: &'static [&'static str],
    /// What it is when nobody says anything.
    pub default: &'static str,
    /// What stands for the value in the help.
    pub value: &'static str,
    /// Whether the flag may stand alone, meaning `true`.
    pub switch: bool,
    /// Under which heading the help shows it; `None` hides it.
    pub heading: Option<&'static str>,
    /// Its help.
    pub help: &'static str,
}

const VOLUMES: Option<&str> = Some("Volumes");
const BACKEND: Option<&str> = Some("Backend");
const PLACES: Option<&str> = Some("Names and places");
const LOG: Option<&str> = Some("Log");

const fn key(name: &'static str, default: &'static str, value: &'static str) -> Key {
    Key { name, aliases: &[], default, value, switch: false, heading: None, help: "" }
}

/// The table, in the order of the help.
pub const KEYS: &[Key] = &[
    Key {
        heading: VOLUMES,
        switch: true,
        help: "Create images that do not exist yet; without it a volume needs an image made beforehand",
        ..key("create", "false", "BOOL")
    },
    Key {
        heading: VOLUMES,
        switch: true,
        help: "What `docker volume rm` does to the image: ignore keeps it, rename puts zz_ before its name, delete deletes it",
        ..key("remove", "ignore", "ignore|delete|rename")
    },
    Key {
        heading: VOLUMES,
        help: "Size of a new image: a bare number is MiB; K, M, G, T are powers of 1024",
        ..key("size", "20480", "SIZE")
    },
    Key {
        heading: VOLUMES,
        aliases: &["fstype"],
        help: "Filesystem of a new image",
        ..key("fs", "xfs", "ext4|xfs|btrfs")
    },
    Key {
        heading: VOLUMES,
        help: "Pool of a volume whose name does not say one",
        ..key("pool", "rbd", "POOL")
    },
    Key {
        heading: VOLUMES,
        help: "RADOS namespace of a volume whose name does not say a pool",
        ..key("namespace", "", "NAME")
    },
    Key {
        heading: VOLUMES,
        help: "Further options for mkfs of a new volume whose filesystem is that of --fs, quoted as in a shell",
        ..key("mkfs-options", "", WORDS)
    },
    Key {
        heading: VOLUMES,
        help: "Mount options of a new volume, and of images that others made, as in fstab",
        ..key("mount-options", "", "OPTIONS")
    },
    Key {
        heading: VOLUMES,
        help: "What Docker is told: whether a volume of one name is the same on all hosts",
        ..key("scope", "global", "global|local")
    },
    Key {
        heading: VOLUMES,
        help: "How long a request waits for another operation on the same volume; 110 at most, Docker gives up at 120",
        ..key("wait", "100", "SECONDS")
    },
    Key {
        heading: VOLUMES,
        help: "How long a mount is kept whose Docker engine is gone and which no container holds",
        ..key("orphan-grace", "60", "SECONDS")
    },
    Key {
        heading: BACKEND,
        help: "Where images live: rbd is a Ceph cluster, local a folder of this host, sim the memory of this process",
        ..key("backend", "rbd", "rbd|local|sim")
    },
    Key { heading: BACKEND, help: "Folder of the local backend's images", ..key("local-dir", "", "DIR") },
    Key {
        heading: BACKEND,
        aliases: &["ceph-user"],
        help: "Ceph user, without `client.`",
        ..key("user", "admin", "USER")
    },
    Key { heading: BACKEND, help: "Ceph configuration", ..key("config", "/etc/ceph/ceph.conf", "FILE") },
    Key {
        heading: BACKEND,
        help: "Keyring with the user's key [default: as ceph.conf has it]",
        ..key("keyring", "", "FILE")
    },
    Key { heading: BACKEND, help: "Ceph cluster name", ..key("cluster", "", "NAME") },
    Key {
        heading: BACKEND,
        help: "Further pools whose images are volumes, with commas; --pool always is one",
        ..key("pools", "", "POOLS")
    },
    Key {
        heading: BACKEND,
        help: "Features of a new image, with commas [default: the cluster's, as far as this kernel has them]",
        ..key("features", "", "FEATURES")
    },
    Key {
        heading: BACKEND,
        help: "Size of the objects of a new image; a bare number is bytes [default: the cluster's, 4M]",
        ..key("object-size", "", "SIZE")
    },
    Key {
        heading: BACKEND,
        help: "Options of every mapping, with commas, as in rbd(8): queue_depth=64,ms_mode=crc",
        ..key("map-options", "", "OPTIONS")
    },
    Key {
        heading: BACKEND,
        help: "Whether a volume of a host that died is taken over: auto fences that host first, never leaves it to `lock break`",
        ..key("takeover", "auto", "auto|never")
    },
    Key {
        heading: BACKEND,
        help: "How long a host must show no sign of life, neither its plugin nor its kernel, before its volumes are taken over: 6 to 300",
        ..key("dead-after", "10", "SECONDS")
    },
    Key {
        heading: BACKEND,
        help: "How long Mount waits for an owner on another host to unmount, or to turn out to be dead",
        ..key("owner-wait", "60", "SECONDS")
    },
    Key {
        heading: BACKEND,
        help: "How long a fenced host stays shut out; a suspended one that wakes up later can write again",
        ..key("fence-days", "30", "DAYS")
    },
    Key {
        heading: BACKEND,
        help: "How long one request to the cluster may take",
        ..key("ceph-timeout", "10", "SECONDS")
    },
    Key {
        heading: PLACES,
        help: "Name of the driver, as in --volume-driver; part of the socket, the mountpoints and the log file",
        ..key("name", "rbd", "NAME")
    },
    Key {
        heading: PLACES,
        aliases: &["plugin-dir"],
        help: "Folder of the socket",
        ..key("plugins", "/run/docker/plugins", "DIR")
    },
    Key {
        heading: PLACES,
        help: "Group that may use the socket, by name or number",
        ..key("socket-group", "root", "GROUP")
    },
    Key {
        heading: PLACES,
        help: "Folder of the admin socket, for metrics, health and the commands ls, inspect, df and top; `none` for none",
        ..key("admin", "/run/rbd-docker-plugin", "DIR|none")
    },
    Key {
        heading: PLACES,
        help: "Serve /metrics, /healthz and /readyz here as well, for everybody who can connect: 127.0.0.1:9639, [::1]:9639",
        ..key("metrics-address", "", "ADDRESS:PORT")
    },
    Key {
        heading: PLACES,
        help: "Root of the mountpoints: <DIR>/<name>/<pool>/<image>",
        ..key("mount", "/var/lib/docker-volumes", "DIR")
    },
    Key {
        heading: PLACES,
        help: "Folder for what should survive a restart of the host [default: <mount>/.state]",
        ..key("state", "", "DIR")
    },
    Key {
        heading: PLACES,
        help: "Group that may pass through to the volumes, by name or number: with userns-remap that of the containers' root [default: only root may]",
        ..key("mount-group", "", "GROUP")
    },
    Key {
        heading: PLACES,
        help: "Folder of the mount IDs, which tell who uses what is mounted, for as long as the host is up [default: <plugins>]",
        ..key("mount-ids", "", "DIR")
    },
    Key {
        heading: PLACES,
        help: "Configuration file, `none` for none; the default one may be missing",
        ..key(CONF_FILE, "/etc/docker/rbd-docker-plugin.conf", "FILE")
    },
    Key {
        heading: LOG,
        help: "Folder of the log file <name>-docker-plugin.log; `-` is stderr",
        ..key("logdir", "/var/log", "DIR")
    },
    Key {
        heading: LOG,
        help: "The least important level that is logged",
        ..key("log-level", "info", "error|warn|info|debug|trace")
    },
    Key { heading: LOG, help: "Form of the log", ..key("log-format", "text", "text|json") },
    Key {
        heading: LOG,
        switch: true,
        help: "Log to stderr, at debug level at least",
        ..key("debug", "false", "BOOL")
    },
    Key { switch: true, help: "Accepted and ignored", ..key("go-ceph", "false", "BOOL") },
    Key { help: "The mount root with the name behind it", ..key(VOLROOT, "", "DIR") },
];

/// The mount root as tobilg/docker-volume-rbd has it: with the driver's name for its last part.
pub const VOLROOT: &str = "volroot";

/// Stands for a value that may begin with a dash.
pub const WORDS: &str = "WORDS";

/// The one key that cannot be in the file.
pub const CONF_FILE: &str = "conf-file";

/// What the environment twins begin with.
pub const ENV_PREFIX: &str = "RBD_DOCKER_PLUGIN_";

impl Key {
    /// The environment twin.
    pub fn variable(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.replace('-', "_").to_ascii_uppercase())
    }
}

/// The spelling that somebody may have meant by one that is none.
pub fn nearest(text: &str) -> Option<&'static str> {
    let name = text.to_ascii_lowercase().replace('_', "-");
    let known = KEYS.iter().filter(|key| key.heading.is_some());
    let known = known.flat_map(|key| std::iter::once(key.name).chain(key.aliases.iter().copied()));
    crate::model::text::nearest(&name, known)
}

/// The key that somebody means: dashes and underscores, upper and lower case are the same, aliases are followed.
pub fn find(text: &str) -> Option<&'static Key> {
    let name = text.to_ascii_lowercase().replace('_', "-");
    KEYS.iter().find(|key| key.name == name || key.aliases.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_share_a_spelling() {
        let mut seen = std::collections::BTreeSet::new();
        for key in KEYS {
            for name in std::iter::once(&key.name).chain(key.aliases) {
                assert!(seen.insert(*name), "{name} twice");
                assert_eq!(find(name).unwrap().name, key.name);
            }
        }
    }

    #[test]
    fn spellings() {
        for (text, name) in [
            ("fsType", "fs"),
            ("local_dir", "local-dir"),
            ("CONF_FILE", "conf-file"),
            ("ceph-user", "user"),
            ("plugin_dir", "plugins"),
        ] {
            assert_eq!(find(text).unwrap().name, name);
        }
        assert!(find("vol-root").is_none());
        assert_eq!(find("orphan-grace").unwrap().variable(), "RBD_DOCKER_PLUGIN_ORPHAN_GRACE");
    }
}
