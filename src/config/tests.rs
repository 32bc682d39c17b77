//! Layering and values, by tables.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

/// Loads `key=value` words as flags, variables and lines of a file.
fn load(flags: &[&str], variables: &[&str], file: &str) -> Result<Config> {
    let pair = |word: &&str| -> (String, String) {
        let (key, value) = word.split_once('=').expect("a test's key=value");
        (key.to_owned(), value.to_owned())
    };
    let mut set: BTreeMap<&'static str, String> = BTreeMap::new();
    for (key, value) in flags.iter().map(pair) {
        set.insert(keys::find(&key).expect("a key").name, value);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conf");
    std::fs::write(&path, file).unwrap();
    set.insert("conf-file", path.to_str().unwrap().to_owned());
    Config::load(&set, &variables.iter().map(pair).collect())
}

#[test]
fn defaults() {
    let c = load(&[], &[], "").unwrap();
    assert_eq!(
        (c.name.as_str(), c.pool.as_str(), c.ceph.user.as_str(), c.ceph.cluster.as_str()),
        ("rbd", "rbd", "admin", "")
    );
    assert_eq!(c.plugins, Path::new("/run/docker/plugins"));
    assert_eq!(c.mount_ids, c.plugins);
    assert_eq!(c.mount, Path::new("/var/lib/docker-volumes"));
    assert_eq!(c.state, Path::new("/var/lib/docker-volumes/.state"));
    assert_eq!(c.ceph.conf, Path::new("/etc/ceph/ceph.conf"));
    assert_eq!(c.socket_group, SocketGroup { name: "root".to_owned(), gid: 0 });
    assert_eq!((c.create, c.remove, c.size, c.fs), (false, Removal::Ignore, Size::mib(20480), FsKind::Xfs));
    assert_eq!((c.backend, c.scope), (Backend::Rbd, Scope::Global));
    assert_eq!((c.wait.as_secs(), c.orphan_grace.as_secs()), (100, 60));
    assert_eq!(c.log.target, log::Target::File("/var/log/rbd-docker-plugin.log".into()));
    assert_eq!((c.log.format, c.log.level), (log::Format::Text, tracing::Level::INFO));
    assert_eq!((c.ceph.pools, c.ceph.features, c.ceph.map_options), (vec!["rbd".to_owned()], None, None));
    assert!(c.ceph.takeover);
    assert_eq!((c.ceph.owner_wait.as_secs(), c.ceph.timeout.as_secs()), (60, 10));
    assert_eq!(c.ceph.fence.as_secs(), 30 * 24 * 3600);
    assert!(c.warnings.is_empty());
}

#[test]
fn where_it_can_be_seen() {
    let c = load(&[], &[], "").unwrap();
    assert_eq!((c.admin.as_deref(), c.metrics_address), (Some(Path::new("/run/rbd-docker-plugin")), None));
    let c = load(&["admin=none", "metrics-address=[::1]:9639"], &[], "").unwrap();
    assert_eq!((c.admin, c.metrics_address.unwrap().to_string()), (None, "[::1]:9639".to_owned()));
    let e = load(&["admin=/x", "plugins=/x"], &[], "").unwrap_err().to_string();
    assert!(e.contains("another folder than plugins"), "{e}");
    let e = load(&["metrics-address=localhost"], &[], "").unwrap_err().to_string();
    assert!(e.contains("metrics-address = \"localhost\"") && e.contains("127.0.0.1:9639"), "{e}");
}

#[test]
fn pools_are_listed_once_with_the_default_one_first() {
    let c = load(&["pool=b", "pools=a, b,c,a"], &[], "").unwrap();
    assert_eq!(c.ceph.pools, ["b", "a", "c"]);
    for wrong in ["pools=a/b", "takeover=maybe", "fence-days=0", "ceph-timeout=0", "owner-wait=61"] {
        let e = load(&[wrong], &[], "").unwrap_err().to_string();
        assert!(
            e.contains("accepted") || e.contains("only letters") || e.contains("at least"),
            "{wrong}: {e}"
        );
    }
}

#[test]
fn the_higher_layer_wins_and_empty_says_nothing() {
    const V: &str = "RBD_DOCKER_PLUGIN_POOL=variable";
    for (flags, variables, file, pool) in [
        (&["pool=flag"][..], &[V][..], "pool=file", "flag"),
        (&[], &[V], "pool=file", "variable"),
        (&[], &[], "pool=file", "file"),
        (&[], &[], "", "rbd"),
        (&["pool="], &[V], "pool=file", "variable"),
        (&[], &["RBD_DOCKER_PLUGIN_POOL="], "pool=file", "file"),
        (&[], &[], "pool=", "rbd"),
        (&[], &[], "pool=one\npool=two", "two"),
    ] {
        assert_eq!(load(flags, variables, file).unwrap().pool, pool, "{flags:?} {variables:?} {file:?}");
    }
}

#[test]
fn variables_have_aliases_too_and_the_exact_name_wins() {
    let c = load(&[], &["RBD_DOCKER_PLUGIN_CEPH_USER=alias"], "").unwrap();
    assert_eq!(c.ceph.user, "alias");
    let c = load(&[], &["RBD_DOCKER_PLUGIN_CEPH_USER=alias", "RBD_DOCKER_PLUGIN_USER=exact"], "").unwrap();
    assert_eq!(c.ceph.user, "exact");
    let c = load(&[], &["RBD_DOCKER_PLUGIN_COLOUR=red", "PATH=/bin"], "").unwrap();
    assert_eq!(c.warnings, ["unknown environment variable RBD_DOCKER_PLUGIN_COLOUR"]);
    let c = load(&[], &["RBD_DOCKER_PLUGIN_POOLL=x"], "").unwrap();
    assert!(c.warnings[0].ends_with("did you mean RBD_DOCKER_PLUGIN_POOL?"), "{:?}", c.warnings);
}

#[test]
fn the_environment_of_wetopi_counts_less_than_ours() {
    const THEIRS: &[&str] = &[
        "RBD_CONF_POOL=ssd",
        "RBD_CONF_KEYRING_USER=client.docker",
        "RBD_CONF_NAMESPACE=",
        "VOLUME_SIZE=512",
        "VOLUME_FSTYPE=ext4",
        "VOLUME_MKFS_OPTIONS=-O mmp",
        "VOLUME_ORDER=22",
        "MOUNT_OPTIONS=--options=noatime",
        "LOG_LEVEL=3",
    ];
    let c = load(&[], THEIRS, "pool=file\nfs=xfs").unwrap();
    assert_eq!((c.pool.as_str(), c.ceph.user.as_str(), c.ceph.namespace.as_deref()), ("ssd", "docker", None));
    assert_eq!((c.size, c.fs, c.ceph.object_size), (Size::mib(512), FsKind::Ext4, Some(Size::mib(4))));
    assert_eq!(
        (c.mkfs_options.join(" "), c.mount_options.as_deref()),
        ("-O mmp".to_owned(), Some("noatime"))
    );
    assert_eq!(c.log.level, tracing::Level::DEBUG);
    assert_eq!(c.warnings.len(), 8, "one for each: {:?}", c.warnings);
    assert!(c.warnings[0].contains("say RBD_DOCKER_PLUGIN_POOL=ssd here, or pool=ssd"), "{:?}", c.warnings);

    let ours: Vec<&str> = THEIRS.iter().copied().chain(["RBD_DOCKER_PLUGIN_POOL=ours"]).collect();
    let c = load(&["size=1G"], &ours, "").unwrap();
    assert_eq!((c.pool.as_str(), c.size), ("ours", Size::mib(1024)));
    let ignored = "VOLUME_SIZE is ignored: size comes from the flag --size";
    assert!(c.warnings.iter().any(|warning| warning == ignored), "{:?}", c.warnings);

    assert_eq!(load(&[], &THEIRS[3..], "").unwrap().warnings, <[String; 0]>::default(), "strays");
    let e = load(&[], &["RBD_CONF_POOL=p", "VOLUME_MKFS_OPTIONS=-O mmp"], "").unwrap_err().to_string();
    assert!(e.contains("mkfs-options") && e.contains("VOLUME_MKFS_OPTIONS"), "not for xfs: {e}");
    let e = load(&[], &["RBD_CONF_POOL=p", "LOG_LEVEL=9"], "").unwrap_err().to_string();
    assert!(e.contains("LOG_LEVEL = \"9\"") && e.contains("RBD_DOCKER_PLUGIN_LOG_LEVEL"), "{e}");
}

#[test]
fn the_root_of_tobilg_ends_in_the_name() {
    let c = load(&["volroot=/var/lib/docker-volumes/rbd"], &[], "").unwrap();
    assert_eq!(c.mount, Path::new("/var/lib/docker-volumes"));
    assert_eq!(c.warnings.len(), 1);
    let c = load(&["volroot=/v/ssd/"], &[], "name=ssd").unwrap();
    assert_eq!((c.mount.as_path(), c.state.as_path()), (Path::new("/v"), Path::new("/v/.state")));
    for (flags, why) in [
        (&["volroot=/srv/volumes"][..], "the name is \"rbd\"; say --mount DIR instead"),
        (&["volroot=rbd"], "say --mount DIR instead"),
        (&["volroot=/v/rbd", "mount=/v"], "mount (from the flag --mount) says it too"),
    ] {
        let e = load(flags, &[], "").unwrap_err().to_string();
        assert!(e.contains("volroot = ") && e.contains(why), "{flags:?}: {e}");
    }
}

#[test]
fn the_old_words_of_remove() {
    for (word, action, warns) in [
        ("ignore", Removal::Ignore, false),
        ("delete", Removal::Delete, false),
        ("rename", Removal::Rename, false),
        ("true", Removal::Delete, true),
        ("false", Removal::Rename, true),
    ] {
        let c = load(&[&format!("remove={word}")], &[], "").unwrap();
        assert_eq!((c.remove, !c.warnings.is_empty()), (action, warns), "{word}");
    }
}

#[test]
fn go_ceph_is_ignored_with_a_warning() {
    let c = load(&["go-ceph=true"], &[], "").unwrap();
    assert_eq!(c.warnings, ["go-ceph (from the flag --go-ceph) has no meaning any more and is ignored"]);
}

#[test]
fn the_log() {
    for (flags, variables, target, level) in [
        (&["logdir=/l", "name=n"][..], &[][..], Some("/l/n-docker-plugin.log"), tracing::Level::INFO),
        (&["logdir=-"], &[], None, tracing::Level::INFO),
        (&["debug=true"], &[], None, tracing::Level::DEBUG),
        (&[], &["RBD_DOCKER_PLUGIN_DEBUG=1"], None, tracing::Level::DEBUG),
        (&["debug=true", "log-level=trace"], &[], None, tracing::Level::TRACE),
        (&["debug=true", "log-level=error"], &[], None, tracing::Level::DEBUG),
        (
            &["debug=false", "log-level=error", "logdir=/l"],
            &[],
            Some("/l/rbd-docker-plugin.log"),
            tracing::Level::ERROR,
        ),
    ] {
        let c = load(flags, variables, "").unwrap();
        let expected = target.map_or(log::Target::Stderr, |path| log::Target::File(path.into()));
        assert_eq!((c.log.target, c.log.level), (expected, level), "{flags:?}");
    }
}

#[test]
fn values_of_all_kinds() {
    let c = load(
        &["backend=local", "local-dir=images", "size=10G", "socket-group=1234", "scope=local"],
        &[
            "RBD_DOCKER_PLUGIN_ORPHAN_GRACE=5",
            "RBD_DOCKER_PLUGIN_WAIT=110",
            "RBD_DOCKER_PLUGIN_LOG_FORMAT=json",
        ],
        "create=t\nfsType=btrfs # small\nmount=/m/\n",
    )
    .unwrap();
    assert_eq!(c.backend, Backend::Local(std::env::current_dir().unwrap().join("images")));
    assert_eq!(c.state, Path::new("/m/.state"));
    assert_eq!((c.size, c.fs, c.create), (Size::mib(10240), FsKind::Btrfs, true));
    assert_eq!((c.socket_group.gid, c.scope), (1234, Scope::Local));
    assert_eq!((c.orphan_grace.as_secs(), c.wait.as_secs()), (5, 110));
    assert_eq!(c.log.format, log::Format::Json);
}

#[test]
fn a_wrong_value_names_key_value_origin_and_what_is_accepted() {
    for (flag, parts) in [
        ("create=maybe", "create = \"maybe\" (from the flag --create): accepted are true and false"),
        ("remove=X", r#"Invalid value: X, valid values are: ["ignore" "delete" "rename"]"#),
        (
            "size=10X",
            "size = \"10X\" (from the flag --size): invalid size \"10X\": unknown unit; give a whole number",
        ),
        ("fs=zfs", "use ext4, xfs or btrfs"),
        ("pool=a/b", "invalid pool name \"a/b\": only letters"),
        ("name=.x", "beginning with a letter or digit"),
        ("name=a/b", "beginning with a letter or digit"),
        ("user=a b", "accepted is one word"),
        ("namespace=a/b", "invalid namespace name \"a/b\""),
        ("mkfs-options=-d name=/x", "mkfs-options = \"-d name=/x\" (from the flag --mkfs-options): "),
        ("mkfs-options='open", "mkfs-options = \"'open\""),
        ("mount-options=rw,bind", "mount-options = \"rw,bind\""),
        ("object-size=big", "object-size = \"big\""),
        ("wait=111", "a whole number of seconds from 0 to 110"),
        ("wait=+1", "a whole number of seconds"),
        ("orphan-grace=1.5", "a whole number of seconds"),
        ("socket-group=no-such-group-here", "this host has no such group"),
        ("socket-group=99999999999", "a group number below"),
        ("scope=world", "accepted are global and local"),
        ("backend=nfs", "accepted are rbd, local and sim"),
        ("backend=local", "it needs local-dir"),
        ("log-level=loud", "accepted are error, warn, info, debug and trace"),
        ("log-format=xml", "accepted are text and json"),
        ("go-ceph=maybe", "accepted are true and false"),
    ] {
        let e = load(&[flag], &[], "").unwrap_err();
        assert_eq!(e.kind, ErrorKind::Config, "{flag}");
        assert!(e.to_string().contains(parts), "{flag}: {e}");
    }
    let e = load(&[], &["RBD_DOCKER_PLUGIN_FS=zfs"], "").unwrap_err().to_string();
    assert!(e.starts_with("fs = \"zfs\" (from the environment variable RBD_DOCKER_PLUGIN_FS): "), "{e}");
    let e = load(&[], &[], "\nfs=zfs").unwrap_err().to_string();
    assert!(e.contains("/conf:2): "), "{e}");
}

#[test]
fn the_file_can_be_none_or_missing() {
    let none = [("conf-file", "none".to_owned())].into();
    assert_eq!(Config::load(&none, &BTreeMap::new()).unwrap().name, "rbd");
    let missing = [("conf-file", "/nonexistent/conf".to_owned())].into();
    assert!(Config::load(&missing, &BTreeMap::new()).unwrap_err().to_string().contains("/nonexistent/conf"));
}
