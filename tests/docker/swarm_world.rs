//! What the cases of Swarm work in: three hosts on one machine, each with a name, a network, an
//! engine and a plugin of its own, one folder of images, and a swarm of the three.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::{tail, wait};
use crate::engine::{self, Engine};
use crate::leaks;
use crate::plugin::Plugin;
use crate::world::folder;

/// The first is the manager.
const HOSTS: [&str; 3] = ["n1", "n2", "n3"];

/// Why no swarm can be had here, if so.
pub(crate) fn missing() -> Option<String> {
    engine::missing(&["ip", "nsenter", "hostname"]).or_else(|| {
        let links = "ip link add name b0 type bridge && ip link add name v0 type veth peer name v1 && ip link add name x0 type vxlan id 9 dstport 0";
        let tried = Command::new("unshare").args(["--net", "sh", "-c", links]).output().expect("unshare runs");
        let why = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
        (!tried.status.success()).then(|| format!("needs network namespaces with bridges, veth and vxlan: {why}"))
    })
}

/// One of the hosts.
pub(crate) struct Node {
    /// Its host name, which is its node's name, too.
    pub(crate) name: &'static str,
    /// Its engine.
    pub(crate) engine: Engine,
    /// Its plugin, which the engine knows as `rbd`.
    pub(crate) plugin: Plugin,
}

/// One case's swarm.
pub(crate) struct Swarm {
    /// All that it makes is below.
    pub(crate) dir: PathBuf,
    /// The hosts, the manager first.
    pub(crate) nodes: Vec<Node>,
    case: String,
    finished: bool,
}

impl Swarm {
    /// Three hosts that have joined.
    pub(crate) fn new(case: &str) -> Self {
        let dir = folder(case);
        let images = dir.join("images");
        fs::create_dir_all(&images).expect("a folder for the images");
        let started = std::thread::scope(|scope| {
            HOSTS
                .map(|name| {
                    let (dir, images) = (&dir, &images);
                    scope.spawn(move || start(case, name, dir, images))
                })
                .map(std::thread::ScopedJoinHandle::join)
        });
        let failed = started.iter().any(Result::is_err);
        let nodes = started.into_iter().flatten().collect();
        // One that failed is taken down with the others.
        let swarm = Self { dir, nodes, case: case.to_owned(), finished: false };
        assert!(!failed, "a host did not start");
        swarm.connect();
        swarm.join();
        swarm
    }

    /// A bridge in the manager's network, and a cable from it to each of the others.
    fn connect(&self) {
        let pid = |node: &Node| node.engine.pid().to_string();
        let manager = pid(&self.nodes[0]);
        inside(
            &manager,
            "ip link add name nodes type bridge && ip addr add 192.168.77.1/24 dev nodes && ip link set nodes up",
        );
        for (n, node) in (1..).zip(&self.nodes).skip(1) {
            let other = pid(node);
            inside(
                &manager,
                &format!(
                    "ip link add name to{n} type veth peer name eth0 netns {other} && ip link set to{n} master nodes up"
                ),
            );
            inside(&other, &format!("ip addr add 192.168.77.{n}/24 dev eth0 && ip link set eth0 up"));
        }
    }

    fn join(&self) {
        let manager = self.manager();
        manager.ok(&[
            "swarm",
            "init",
            "--advertise-addr",
            "192.168.77.1",
            "--listen-addr",
            "192.168.77.1:2377",
        ]);
        let token = manager.ok(&["swarm", "join-token", "-q", "worker"]);
        for (n, node) in (1..).zip(&self.nodes).skip(1) {
            let own = format!("192.168.77.{n}");
            node.engine.ok(&[
                "swarm",
                "join",
                "--token",
                token.trim(),
                "--advertise-addr",
                &own,
                "192.168.77.1:2377",
            ]);
        }
        wait("all nodes to be ready", || {
            manager
                .ok(&["node", "ls", "--format", "{{.Status}}"])
                .lines()
                .filter(|status| *status == "Ready")
                .count()
                == self.nodes.len()
        });
        for node in &self.nodes {
            let drivers = ["node", "inspect", "-f", "{{.Description.Engine.Plugins}}", node.name];
            let drivers = manager.ok(&drivers);
            assert!(drivers.contains("{Volume rbd}"), "{drivers}");
        }
    }

    /// The manager's engine.
    pub(crate) fn manager(&self) -> &Engine {
        &self.nodes[0].engine
    }

    /// A line of the page, run on the manager in the folder of the case.
    #[track_caller]
    pub(crate) fn line(&self, line: &str) -> String {
        let ran =
            self.manager().client("sh").args(["-c", line]).current_dir(&self.dir).output().expect("sh runs");
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{line}: {}\n{stderr}", ran.status);
        String::from_utf8(ran.stdout).expect("UTF-8")
    }

    /// The nodes whose plugin has a volume mounted.
    pub(crate) fn mounted_on(&self, volume: &str) -> Vec<&'static str> {
        let has = |node: &&Node| !leaks::mounts_under(&node.plugin.mountpoint(volume)).is_empty();
        self.nodes.iter().filter(has).map(|node| node.name).collect()
    }

    /// Waits until a volume is mounted on one node other than `before`, and that node's container
    /// runs; the node.
    pub(crate) fn wait_moved(&self, service: &str, volume: &str, before: &str) -> &Node {
        let mut found = None;
        wait(&format!("{service} to run elsewhere than on {before}\n{}", self.tasks(service)), || {
            found = match self.mounted_on(volume)[..] {
                [name] if name != before && !self.containers(self.node(name), service).is_empty() => {
                    Some(name)
                }
                _ => None,
            };
            found.is_some()
        });
        self.node(found.unwrap_or_default())
    }

    /// A node by its name.
    pub(crate) fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name:?}"))
    }

    /// The running containers of a service on a node.
    pub(crate) fn containers(&self, node: &Node, service: &str) -> Vec<String> {
        let filter = format!("label=com.docker.swarm.service.name={service}");
        node.engine.ok(&["ps", "-q", "--filter", &filter]).split_whitespace().map(str::to_owned).collect()
    }

    /// Runs a script in a service's container on a node.
    pub(crate) fn exec(&self, node: &Node, service: &str, script: &str) -> String {
        let containers = self.containers(node, service);
        let newest =
            containers.first().unwrap_or_else(|| panic!("no container of {service} on {}", node.name));
        node.engine.ok(&["exec", newest, "sh", "-c", script])
    }

    /// Node, state and error of every task that a service ever had.
    pub(crate) fn tasks(&self, service: &str) -> String {
        let format = "{{.Node}} {{.CurrentState}} {{.Error}}";
        let listed = self.manager().docker(&["service", "ps", "--no-trunc", "--format", format, service]);
        String::from_utf8_lossy(&listed.stdout).into_owned()
    }

    /// The images that are there.
    pub(crate) fn images(&self) -> Vec<PathBuf> {
        leaks::files_under(&self.dir.join("images"), ".img")
    }

    /// Removes a service and waits until no node has a container of it, and no volume is mounted.
    pub(crate) fn remove_service(&self, service: &str) {
        self.manager().ok(&["service", "rm", service]);
        self.wait_idle();
    }

    /// Waits until no node has a container or a mounted volume.
    pub(crate) fn wait_idle(&self) {
        for node in &self.nodes {
            wait(&format!("the containers of {} to go", node.name), || {
                node.engine.ok(&["ps", "-aq"]).is_empty()
            });
            wait(&format!("the mounts of {} to go\n{}", node.name, tail(&node.plugin.log())), || {
                leaks::mounts_under(&node.plugin.mount_root()).is_empty()
            });
        }
    }

    /// The end of every case: no container, no volume, no swarm, no process is left.
    pub(crate) fn finish(mut self) {
        let services = self.manager().ok(&["service", "ls", "-q"]);
        for service in services.split_whitespace() {
            self.manager().ok(&["service", "rm", service]);
        }
        self.wait_idle();
        for node in &self.nodes {
            for volume in node.engine.ok(&["volume", "ls", "-q"]).split_whitespace() {
                node.engine.ok(&["volume", "rm", volume]);
            }
        }
        for ending in [".img", ".json", ".owner"] {
            let left = leaks::files_under(&self.dir.join("images"), ending);
            assert!(left.is_empty(), "left after removing every volume: {left:?}");
        }
        assert!(leaks::loops_under(&self.dir).is_empty(), "loop devices");
        for node in self.nodes.iter().rev() {
            node.engine.ok(&["swarm", "leave", "--force"]);
        }
        for node in &mut self.nodes {
            node.engine.stop();
            node.plugin.stop();
        }
        let left = leaks::processes_of(Some(&self.case));
        assert!(left.is_empty(), "processes left: {left:?}");
        self.finished = true;
        fs::remove_dir_all(&self.dir).expect("the folder of the case can be removed");
    }
}

/// A host of the swarm. Its images are everybody's; all else is below a folder of its own.
fn start(case: &str, name: &'static str, dir: &Path, images: &Path) -> Node {
    let (case, dir) = (format!("{case}/{name}"), dir.join(name));
    fs::create_dir_all(&dir).expect("a folder for the host");
    let named = format!("hostname {name} && exec \"$0\" \"$@\"");
    let words = ["unshare", "--uts", "sh", "-c", &named];
    let images = images.to_str().expect("a UTF-8 path");
    let plugin = Plugin::start_by(&words, &case, "rbd", &dir, &["--local-dir", images]);
    let engine = Engine::start_on(&case, &dir, &[], Some(name));
    engine.ok(&["tag", "bb", "alpine"]);
    // An engine tells its swarm of the drivers that it has met, and tasks only come to nodes that
    // have the driver.
    engine.ok(&["volume", "ls", "-q"]);
    Node { name, engine, plugin }
}

/// Runs a script in the network of a process.
fn inside(pid: &str, script: &str) {
    let ran = Command::new("nsenter")
        .env("PATH", engine::search_path())
        .args(["--target", pid, "--net", "sh", "-c", script])
        .output()
        .expect("nsenter runs");
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// After a failed case: ends and takes down by force what is of this case, and leaves its logs.
impl Drop for Swarm {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for node in &mut self.nodes {
            eprintln!("{}\n{}", tail(&node.engine.log()), tail(&node.plugin.log()));
            node.engine.force_down();
            node.plugin.kill();
        }
        leaks::clear(&self.dir, Some(&self.case));
    }
}
