//! Docker engines whose containers would not get what is mounted here: from a snap, rootless, in a mount namespace of their own, with
//! user namespaces; and what SELinux wants of volumes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::config::Config;
use crate::linux::mountinfo;

const CHECK: &str = "docker engine";

/// This host, or a picture of one.
struct Host<'a> {
    /// `/proc`, `/etc` and `/sys` are below it.
    root: &'a Path,
}

/// A process called dockerd.
struct Engine {
    pid: u32,
    folder: PathBuf,
    arguments: Vec<String>,
}

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let host = Host { root: Path::new("/") };
    let mut findings = host.engines().iter().flat_map(|engine| host.look(engine, config)).collect::<Vec<_>>();
    findings.extend(host.selinux(config.mount_options.as_deref()));
    findings
}

impl Host<'_> {
    fn engines(&self) -> Vec<Engine> {
        let entries = fs::read_dir(self.root.join("proc")).into_iter().flatten().flatten();
        let engine = |entry: fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path();
            let name = fs::read_to_string(folder.join("comm")).ok()?;
            let arguments = fs::read(folder.join("cmdline")).ok()?;
            let arguments =
                arguments.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
            (name.trim() == "dockerd").then(|| Engine { pid, folder, arguments: arguments.collect() })
        };
        entries.filter_map(engine).collect()
    }

    fn look(&self, engine: &Engine, config: &Config) -> Vec<Finding> {
        let pid = engine.pid;
        let mount = config.mount.join(&config.name);
        let unsupported = |how: &str| {
            let found =
                format!("dockerd (process {pid}) {how}: its containers do not get this plugin's volumes");
            let fix =
                "use the packages of docker.com or of the distribution, run by root; see docs/install.md";
            vec![Finding::fail(CHECK, found, fix)]
        };
        if engine.is_from_snap() {
            return unsupported("comes from a snap, and sees other folders than this host");
        }
        if engine.is_rootless() {
            return unsupported("is rootless");
        }
        let mut findings = Vec::new();
        if self.namespace("self", "mnt") != self.namespace(&pid.to_string(), "mnt") {
            findings.extend(engine.other_namespace(&config.plugins, &mount));
        }
        findings.extend(self.userns(engine, &mount));
        findings
    }

    fn namespace(&self, process: &str, kind: &str) -> Option<PathBuf> {
        fs::read_link(self.root.join("proc").join(process).join("ns").join(kind)).ok()
    }

    /// Which ids the root of its containers has, and whether it can reach the volumes.
    fn userns(&self, engine: &Engine, mount: &Path) -> Option<Finding> {
        let file = engine.argument("config-file").unwrap_or_else(|| "/etc/docker/daemon.json".to_owned());
        let settings = fs::read_to_string(self.below(Path::new(&file))).unwrap_or_default();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap_or_default();
        let remap = engine
            .argument("userns-remap")
            .or_else(|| settings.get("userns-remap")?.as_str().map(str::to_owned))
            .filter(|remap| !remap.is_empty())?;
        let user = self.user_of(&remap);
        let first = |list: &str| {
            let text = fs::read_to_string(self.root.join("etc").join(list)).ok()?;
            let mut lines = text.lines().map(|line| line.split(':'));
            lines.find_map(|mut line| {
                user.iter()
                    .any(|user| line.clone().next() == Some(user))
                    .then(|| line.nth(1)?.parse::<u32>().ok())?
            })
        };
        // Docker takes the user's lines of both, whatever group the setting names.
        let (uid, gid) = (first("subuid"), first("subgid"));
        let (Some(uid), Some(gid)) = (uid, gid) else {
            let found =
                format!("dockerd has userns-remap={remap}, which /etc/subuid and /etc/subgid do not explain");
            return Some(Finding::warn(
                "userns-remap",
                found,
                "give uid and gid of the containers' root: -o uid= -o gid=",
            ));
        };
        let own = format!("create volumes with -o uid={uid} -o gid={gid}");
        let closed = mount.ancestors().find(|folder| {
            let mode = self.below(folder).metadata().map(|meta| meta.permissions().mode());
            mode.is_ok_and(|mode| mode & 0o011 == 0)
        });
        let found = format!("dockerd has userns-remap={remap}: root in a container is {uid}:{gid} here");
        Some(match closed {
            Some(closed) => Finding::warn(
                "userns-remap",
                format!("{found}, and cannot pass {}", closed.display()),
                format!("start the plugin with --mount-group {gid}, and {own}"),
            ),
            None => Finding::ok("userns-remap", format!("{found}; {own}")),
        })
    }

    /// What the lists of ids may call the user of `userns-remap`: by name or by number, which is either way in the setting.
    fn user_of(&self, remap: &str) -> Vec<String> {
        let user = remap.split(':').next().unwrap_or(remap);
        let user = if user == "default" { "dockremap" } else { user };
        let users = fs::read_to_string(self.root.join("etc/passwd")).unwrap_or_default();
        let both = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next()?, fields.nth(1)?);
            (user == name || user == uid).then(|| vec![name.to_owned(), uid.to_owned()])
        });
        both.unwrap_or_else(|| vec![user.to_owned()])
    }

    /// Where it is enforced, an unlabelled volume lets containers do nothing.
    fn selinux(&self, mount_options: Option<&str>) -> Option<Finding> {
        let enforced = fs::read_to_string(self.root.join("sys/fs/selinux/enforce")).ok()?;
        if enforced.trim() != "1" {
            return Some(Finding::ok("selinux", "is not enforced"));
        }
        if mount_options.is_some_and(|options| options.contains("context=")) {
            return Some(Finding::ok("selinux", "is enforced, and new volumes have a context"));
        }
        let fix = "--mount-options 'context=\"system_u:object_r:container_file_t:s0\"', or the same with -o mount-options; \
                   see docs/install.md";
        Some(Finding::warn(
            "selinux",
            "is enforced, and new volumes have no context: containers may be denied",
            fix,
        ))
    }

    fn below(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Engine {
    /// The value of `--NAME=value` or `--NAME value`.
    fn argument(&self, name: &str) -> Option<String> {
        let flag = format!("--{name}");
        self.arguments.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(&flag)? {
            "" => self.arguments.get(at + 1).cloned(),
            rest => rest.strip_prefix('=').map(str::to_owned),
        })
    }

    fn is_from_snap(&self) -> bool {
        let group = fs::read_to_string(self.folder.join("cgroup")).unwrap_or_default();
        let program = fs::read_link(self.folder.join("exe")).unwrap_or_default();
        group.contains("snap.docker")
            || program.starts_with("/snap")
            || self.arguments[0].starts_with("/snap/")
    }

    /// Run by another user than root, or by one who is root in a user namespace of his own only.
    fn is_rootless(&self) -> bool {
        let status = fs::read_to_string(self.folder.join("status")).unwrap_or_default();
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let user = user.and_then(|ids| ids.split_ascii_whitespace().nth(1));
        let map = fs::read_to_string(self.folder.join("uid_map")).unwrap_or_default();
        let all = map.is_empty() || map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        user.is_some_and(|user| user != "0") || !all
    }

    /// What an engine in a mount namespace of its own lacks.
    fn other_namespace(&self, sockets: &Path, mount: &Path) -> Option<Finding> {
        let pid = self.pid;
        let seen = |path: &Path| self.folder.join("root").join(path.strip_prefix("/").unwrap_or(path));
        let mounts = mountinfo::read(&self.folder.join("mountinfo")).unwrap_or_default();
        let below = mountinfo::covering(&mounts, mount);
        let lacks = if !seen(sockets).is_dir() {
            format!("has no {}: it does not find the plugin", sockets.display())
        } else if !seen(mount).is_dir() && mount.exists() {
            format!("has no {}: its containers would get empty folders", mount.display())
        } else if below.is_some_and(|below| below.group.is_none() && below.master.is_none()) {
            format!(
                "does not receive what is mounted below {}: its containers would get empty folders",
                mount.display()
            )
        } else {
            return None;
        };
        let found = format!("dockerd (process {pid}) is in a mount namespace of its own, which {lacks}");
        let fix = format!(
            "run it in the host's mount namespace, or bind {} and {} into it with rslave or rshared",
            sockets.display(),
            mount.display()
        );
        Some(Finding::fail(CHECK, found, fix))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::finding::Status;
    use super::*;

    /// A picture of a host with one engine.
    struct Picture(tempfile::TempDir);

    impl Picture {
        fn new(engine: &[(&str, &str)]) -> Self {
            let picture = Self(tempfile::tempdir().unwrap());
            let usual = [
                ("comm", "dockerd\n"),
                ("cmdline", "/usr/bin/dockerd\0-H\0fd://\0"),
                ("status", "Name:\tdockerd\nUid:\t0\t0\t0\t0\n"),
                ("uid_map", "         0          0 4294967295\n"),
                ("cgroup", "0::/system.slice/docker.service\n"),
            ];
            for (file, text) in usual.iter().chain(engine) {
                picture.put(&format!("proc/70/{file}"), text);
            }
            picture.put("proc/71/comm", "containerd\n");
            for process in ["70", "self"] {
                picture.link(&format!("proc/{process}/ns/mnt"), "mnt:[4026531841]");
            }
            picture
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, path: &str, to: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = fs::remove_file(&path);
            symlink(to, path).unwrap();
        }

        fn look(&self) -> Vec<Finding> {
            let flags =
                [("conf-file", "none"), ("mount", "/var/volumes"), ("plugins", "/run/docker/plugins")];
            let flags = flags.map(|(key, value)| (key, value.to_owned())).into();
            let config = Config::load(&flags, &Default::default()).unwrap();
            let host = Host { root: self.0.path() };
            host.engines().iter().flat_map(|engine| host.look(engine, &config)).collect()
        }

        fn one(&self, part: &str) -> Finding {
            let mut findings = self.look();
            let found = findings.pop().expect("nothing is found");
            assert!(findings.is_empty() && found.found.contains(part), "{found:?}");
            found
        }
    }

    #[test]
    fn an_engine_of_root_in_our_namespace_is_fine() {
        assert_eq!(Picture::new(&[]).look(), []);
    }

    #[test]
    fn docker_from_a_snap_and_rootless_docker_are_not_served() {
        for engine in [
            ("cgroup", "0::/system.slice/snap.docker.dockerd.service\n"),
            ("cmdline", "/snap/docker/2932/bin/dockerd\0--group\0docker\0"),
        ] {
            assert_eq!(Picture::new(&[engine]).one("comes from a snap").status, Status::Fail);
        }
        for engine in [
            ("status", "Name:\tdockerd\nUid:\t1000\t1000\t1000\t1000\n"),
            ("uid_map", "         0       1000          1\n         1     100000      65536\n"),
        ] {
            assert_eq!(Picture::new(&[engine]).one("is rootless").status, Status::Fail);
        }
    }

    #[test]
    fn an_engine_in_a_namespace_of_its_own_must_see_sockets_and_mounts() {
        let mounts = |of: &str| format!("21 1 254:1 / / rw {of} - ext4 /dev/vda1 rw\n");
        let picture = Picture::new(&[("mountinfo", &mounts("shared:1"))]);
        picture.link("proc/70/ns/mnt", "mnt:[4026532222]");
        assert_eq!(picture.one("it does not find the plugin").status, Status::Fail);
        picture.put("proc/70/root/run/docker/plugins/rbd.sock", "");
        assert_eq!(picture.look(), []);
        picture.put("proc/70/mountinfo", &mounts("master:1"));
        assert_eq!(picture.look(), []);
        picture.put("proc/70/mountinfo", &mounts(""));
        picture.one("does not receive what is mounted below /var/volumes");
    }

    #[test]
    fn the_root_of_remapped_containers_is_named_and_must_reach_the_volumes() {
        for engine in [
            ("cmdline", "dockerd\0--userns-remap=default\0"),
            ("cmdline", "dockerd\0--userns-remap\0default\0"),
        ] {
            let picture = Picture::new(&[engine]);
            picture.put("etc/subuid", "ubuntu:100000:65536\ndockremap:165536:65536\n");
            picture.put("etc/subgid", "dockremap:165537:65536\n");
            let found = picture.one("root in a container is 165536:165537 here");
            assert!(found.status == Status::Ok && found.found.contains("-o uid=165536 -o gid=165537"));
        }
        let picture = Picture::new(&[]);
        picture.put("etc/docker/daemon.json", r#"{"userns-remap": "1001:users"}"#);
        assert_eq!(picture.one("do not explain").status, Status::Warn);
        picture.put("etc/passwd", "root:x:0:0::/root:/bin/sh\ncarl:x:1001:100::/home/carl:/bin/sh\n");
        picture.put("etc/subuid", "root:1000:1\n1001:200000:65536\n");
        picture.put("etc/subgid", "users:400000:65536\ncarl:300000:65536\n");
        picture.put("var/volumes/rbd/x", "");
        let closed = picture.0.path().join("var/volumes/rbd");
        fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        let found = picture.one("cannot pass /var/volumes/rbd");
        assert!(found.fix.unwrap().contains("--mount-group 300000"), "{}", found.found);
        fs::set_permissions(&closed, PermissionsExt::from_mode(0o710)).unwrap();
        assert_eq!(picture.one("root in a container is 200000:300000").status, Status::Ok);
    }

    #[test]
    fn volumes_without_a_context_are_told_where_selinux_is_enforced() {
        let picture = Picture::new(&[]);
        let host = Host { root: picture.0.path() };
        assert_eq!(host.selinux(None), None);
        picture.put("sys/fs/selinux/enforce", "0");
        assert_eq!(host.selinux(None).unwrap().status, Status::Ok);
        picture.put("sys/fs/selinux/enforce", "1");
        assert_eq!(host.selinux(Some("noatime")).unwrap().status, Status::Warn);
        assert_eq!(host.selinux(Some("context=\"a:b,c\"")).unwrap().status, Status::Ok);
    }
}
