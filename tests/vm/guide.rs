//! The operator's guide, done as it is written: on two hosts with systemd, the units of the packages and a real engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::console::{Step, missing, steps};
use crate::daemon::wait;
use crate::host::Host;
use crate::rig::{self, Lab};

/// The pages, in the order in which a reader meets them.
const PAGES: [&str; 5] =
    ["install.md", "managed-plugin.md", "migration/rex-ray.md", "operate.md", "drills.md"];
/// What a command may take; a takeover, with its container, is the longest.
const DEADLINE: Duration = Duration::from_secs(400);

pub(crate) fn trials() -> Vec<Trial> {
    vec![rig::guide("the_guide_does_what_it_says", guide)]
}

fn guide(lab: &Lab) {
    let mut reader = Reader::new(lab);
    for page in PAGES {
        let path = repository().join("docs").join(page);
        let text = fs::read_to_string(&path).unwrap();
        for step in steps(&text) {
            match step {
                // Printed for other machines, see `tests/protocol/docs.rs`.
                Step::Command { host, .. } if host.is_empty() => {}
                Step::Command { host, command, shown, line } => {
                    reader.command(&format!("{page}:{line}"), &host, &command, &shown);
                }
                Step::Event(event) => reader.event(&event),
                Step::Conf(text) => reader.conf = text,
            }
        }
    }
    reader.end();
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Who does what the guide says.
struct Reader<'a> {
    lab: &'a Lab,
    /// The settings that were shown last.
    conf: String,
    /// Where the administrator works.
    admin: PathBuf,
}

impl<'a> Reader<'a> {
    fn new(lab: &'a Lab) -> Self {
        let admin = lab.folder().join("admin");
        fs::create_dir_all(&admin).unwrap();
        let reader = Self { lab, conf: String::new(), admin };
        std::thread::scope(|scope| {
            for host in lab.hosts() {
                scope.spawn(|| {
                    install(host, &lab.cluster.conf());
                    start_docker(host);
                });
            }
        });
        reader
    }

    fn command(&mut self, place: &str, host: &str, command: &str, shown: &[String]) {
        let (status, printed) = if host == "admin" {
            let script = format!("cd {} && {command}", self.admin.display());
            let output = self.lab.cluster.try_run("sh", &["-c", &script]);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout) + &text(&output.stderr))
        } else {
            let output = self.lab.host(host).spawn(&format!("unset CEPH_CONF\n{command}"), DEADLINE).wait();
            (Some(output.status), output.stdout + &output.stderr)
        };
        let failed = |why: &str| format!("{place}: {host}: {command}: {why}; it printed:\n{printed}");
        assert_eq!(status, Some(0), "{}{}", failed("it failed"), self.logs());
        if let Some(line) = missing(shown, &printed) {
            panic!("{}{}", failed(&format!("{line:?} is shown")), self.logs());
        }
    }

    fn logs(&self) -> String {
        let log = |host: &Host| {
            let said = host.run(
                "tail -n 20 /var/log/rbd-docker-plugin.log; systemctl status --no-pager -n 20 rbd-docker-plugin docker",
            );
            format!("\n--- {}\n{}{}", host.name, said.stdout, said.stderr)
        };
        self.lab.hosts().iter().filter(|host| host.runs()).map(log).collect()
    }

    fn event(&mut self, event: &str) {
        match event.split_once(' ') {
            Some(("copy", "keyring")) => {
                let key = fs::read_to_string(self.admin.join("ceph.client.volumes.keyring")).unwrap();
                for host in self.lab.hosts() {
                    let kept = host.share().join("keyring");
                    fs::write(&kept, &key).unwrap();
                    put_keyring(host);
                }
            }
            Some(("write", "conf")) => {
                for host in self.lab.hosts() {
                    fs::write(host.share().join("conf"), &self.conf).unwrap();
                    put_conf(host);
                }
            }
            Some(("make", "plugin")) => {
                let out = self.lab.folder().join("plugin");
                let made = Command::new(repository().join("tools/plugin-rootfs"))
                    .args(["--binary", env!("CARGO_BIN_EXE_rbd-docker-plugin"), "--out"])
                    .arg(&out)
                    .output()
                    .unwrap();
                assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
                self.lab.host("host1").ok(&format!("docker plugin create ceph {}", out.display()));
            }
            Some(("power-off", name)) => self.lab.host(name).power_off(),
            Some(("boot", name)) => {
                let host = self.lab.host(name);
                host.boot();
                install(host, &self.lab.cluster.conf());
                put_keyring(host);
                put_conf(host);
                // As they are enabled.
                host.ok(
                    "systemctl start rbd-docker-plugin.socket rbd-docker-plugin rbd-docker-plugin-unmount",
                );
                start_docker(host);
            }
            Some(("see", "fenced")) => wait("the host to see that it is fenced", || {
                self.lab
                    .host("host1")
                    .ok("rbd-docker-plugin inspect orders --format json")
                    .contains("\"fenced\"")
            }),
            Some(("cut", name)) => self.lab.host(name).cut_network(),
            Some(("restore", name)) => self.lab.host(name).restore_network(),
            Some(("shutdown", name)) => {
                let host = self.lab.host(name);
                host.ok("docker run -d --name db3 -v orders:/data alpine sleep 100000");
                // It takes the agent with it.
                host.spawn("systemctl poweroff", DEADLINE);
                wait("the host to go down", || !host.runs());
                let lock = self.lab.host("host2").ok("rbd-docker-plugin lock ls --format json");
                assert!(!lock.contains("host1"), "not given back: {lock}");
            }
            _ => panic!("{event}: what is that?"),
        }
    }

    /// What the pages leave is less than what they find.
    fn end(self) {
        let name = "volumes";
        let left = self.lab.cluster.rbd(&["ls", name]);
        assert_eq!(left, "", "images are left");
        self.lab.cluster.ceph(&["osd", "pool", "delete", name, name, "--yes-i-really-really-mean-it"]);
        self.lab.cluster.ceph(&["auth", "del", "client.volumes"]);
    }
}

/// What the package and the distribution put on a host. What has to outlive its power is on its disk.
fn install(host: &Host, conf: &Path) {
    let units = repository().join("packaging/systemd");
    host.ok(&format!(
        "set -e
        cp {units}/*.service {units}/*.socket /usr/lib/systemd/system/
        ln -sf {program} /usr/bin/rbd-docker-plugin
        for folder in docker docker-volumes; do
            mkdir -p /disk/$folder /var/lib/$folder
            mount --bind /disk/$folder /var/lib/$folder
        done
        rm -rf /etc/ceph /etc/docker
        mkdir -p /etc/ceph /etc/docker /etc/containerd
        echo '{containerd}' >/etc/containerd/config.toml
        grep -E '^(\\[global\\]|fsid|mon host)' {conf} >/etc/ceph/ceph.conf
        echo '{engine}' >/etc/docker/daemon.json
        systemctl daemon-reload",
        units = units.display(),
        program = env!("CARGO_BIN_EXE_rbd-docker-plugin"),
        conf = conf.display(),
        // What an emulated processor would set up in vain: Kubernetes' part, other snapshotters than the engine's.
        containerd = r#"version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing"]"#,
        engine = r#"{"bridge":"none","iptables":false,"ip6tables":false}"#,
    ));
}

/// Starts the engine, which asks no registry: it is given an image.
fn start_docker(host: &Host) {
    host.ok("set -e
        systemctl start docker
        docker image inspect alpine >/dev/null 2>&1 && exit 0
        mkdir -p /run/image/bin
        cp $(command -v busybox) /run/image/bin/
        for applet in sh cat echo find ls mkdir mv rmdir sleep sync; do ln -sf busybox /run/image/bin/$applet; done
        tar -C /run/image -c . | docker import --change 'ENV PATH=/bin' - alpine >/dev/null");
}

fn put_keyring(host: &Host) {
    let kept = host.share().join("keyring");
    host.ok(&format!("install -m 600 {} /etc/ceph/ceph.client.volumes.keyring", kept.display()));
}

fn put_conf(host: &Host) {
    let kept = host.share().join("conf");
    host.ok(&format!("cp {} /etc/docker/rbd-docker-plugin.conf", kept.display()));
}
