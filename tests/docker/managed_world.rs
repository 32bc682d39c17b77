//! What the cases of the managed plugin work in: a folder, an engine, and plugins that this engine runs.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{tail, wait};
use crate::engine::{self, Engine};
use crate::leaks;
use crate::world::folder;

/// One case's world.
pub(crate) struct Managed {
    /// Images, the engine's data, logs.
    pub(crate) dir: PathBuf,
    /// The Docker engine.
    pub(crate) engine: Engine,
    /// The ids of all plugins that it ever had.
    ids: RefCell<Vec<String>>,
    finished: bool,
}

/// Where this run builds the plugin's root, once.
fn build_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("plugin-{}", crate::run_id()))
}

fn built() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/plugin-rootfs");
        let binary = env!("CARGO_BIN_EXE_rbd-docker-plugin");
        let made = Command::new(tool)
            .args(["--binary", binary, "--out"])
            .arg(build_dir())
            .output()
            .expect("it runs");
        assert!(made.status.success(), "{tool}: {}", String::from_utf8_lossy(&made.stderr));
    });
    build_dir()
}

/// At the end of the run.
pub(crate) fn remove_built() {
    let _ = fs::remove_dir_all(build_dir());
}

impl Managed {
    /// An engine, without any plugin.
    pub(crate) fn new(case: &str) -> Self {
        let dir = folder(case);
        fs::create_dir_all(dir.join("images")).expect("a folder for the images");
        fs::create_dir_all(engine::rig().join(case).join("plugins")).expect("a folder for sockets");
        let engine = Engine::start(case, &dir, &[]);
        Self { dir, engine, ids: RefCell::default(), finished: false }
    }

    /// An engine with the plugin `rbd` on the local backend, enabled.
    pub(crate) fn with_plugin(case: &str) -> Self {
        let world = Self::new(case);
        world.add("rbd", &[]);
        world
    }

    /// Creates a plugin as `make plugin` does.
    pub(crate) fn create(&self, name: &str) {
        let context = self.dir.join("context");
        let copied = Command::new("cp").arg("-al").arg(built()).arg(&context).status();
        assert!(copied.expect("cp runs").success(), "the plugin's root can be copied");
        // The engine refuses two plugins of the same content.
        fs::write(context.join("rootfs/etc/created"), format!("{name} {:?}", std::time::Instant::now()))
            .expect("a file in the plugin's root");
        self.engine.ok(&["plugin", "create", name, context.to_str().expect("a UTF-8 path")]);
        fs::remove_dir_all(context).expect("the copy can be removed");
        self.ids.borrow_mut().push(self.id(name));
    }

    /// Creates a plugin on the local backend with further settings, and enables it.
    pub(crate) fn add(&self, name: &str, settings: &[&str]) {
        self.create(name);
        let images = format!("images.source={}", self.dir.join("images").display());
        self.engine.ok(&["plugin", "set", name, &images]);
        let defaults =
            ["BACKEND=local", "CREATE=true", "REMOVE=delete", "FS=ext4", "SIZE=64", "ORPHAN_GRACE=1"];
        self.set(name, &defaults);
        self.set(name, settings);
        self.engine.ok(&["plugin", "enable", name]);
    }

    /// Settings, by the ends of their names.
    pub(crate) fn set(&self, name: &str, settings: &[&str]) {
        let settings: Vec<String> = settings.iter().map(|s| format!("RBD_DOCKER_PLUGIN_{s}")).collect();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        if !settings.is_empty() {
            self.engine.ok(&[&["plugin", "set", name], &settings[..]].concat());
        }
    }

    /// `docker run --rm` of a shell script with one volume; what it wrote to stdout.
    pub(crate) fn run(&self, driver: &str, volume: &str, script: &str) -> String {
        let mount = format!("{volume}:/vol");
        let run = ["run", "--rm", "--network", "none", "--volume-driver", driver, "-v", &mount, "bb"];
        self.engine.ok(&[&run[..], &["sh", "-c", script]].concat())
    }

    /// Starts a container that appends to `/vol/log` of the volume ten times a second.
    pub(crate) fn start_writer(&self, driver: &str, name: &str, volume: &str, flags: &[&str]) {
        let mount = format!("{volume}:/vol");
        let run = ["run", "-d", "--name", name, "--network", "none", "--stop-signal", "KILL"];
        let volume = ["--volume-driver", driver, "-v", &mount];
        let script = ["bb", "sh", "-c", "while echo line >> /vol/log; do sleep .1; done"];
        self.engine.ok(&[&run[..], &volume, flags, &script].concat());
        self.still_writes(name);
    }

    /// Waits until the writer's log has grown, as seen from inside its container.
    pub(crate) fn still_writes(&self, container: &str) {
        let lines = || -> u64 {
            let count = self.engine.ok(&["exec", container, "sh", "-c", "wc -l < /vol/log || echo 0"]);
            count.trim().parse().expect("wc prints a number")
        };
        let before = lines();
        wait(&format!("container {container} to go on writing"), || lines() > before);
    }

    /// The engine's id of a plugin.
    pub(crate) fn id(&self, plugin: &str) -> String {
        self.engine.ok(&["plugin", "inspect", "-f", "{{.Id}}", plugin]).trim().to_owned()
    }

    /// The folder of the host that is a plugin's `/mnt/volumes`.
    pub(crate) fn volumes(&self, plugin: &str) -> PathBuf {
        self.dir.join("engine/plugins").join(self.id(plugin)).join("propagated-mount")
    }

    /// The process of a plugin.
    pub(crate) fn pid(&self, plugin: &str) -> Option<Pid> {
        leaks::rooted_in(&format!("/plugins/{}/rootfs", self.id(plugin))).first().copied()
    }

    /// kill -9; the engine starts it again, and it answers.
    pub(crate) fn kill(&self, plugin: &str) {
        // One that dies before the engine has connected to it, half a second after its start, counts as one that does not start.
        std::thread::sleep(Duration::from_secs(3));
        let before = self.pid(plugin).expect("the plugin runs");
        kill(before, Signal::SIGKILL).expect("it can be killed");
        wait("the engine to start the plugin again", || {
            self.pid(plugin).is_some_and(|now| now != before)
                && self.engine.docker(&["volume", "ls", "-q"]).status.success()
        });
    }

    /// The volumes that a plugin has mounted, as the engine's mount namespace shows them.
    pub(crate) fn mounted(&self, plugin: &str) -> Vec<PathBuf> {
        let mountinfo = PathBuf::from(format!("/proc/{}/mountinfo", self.engine.pid()));
        let root = self.volumes(plugin).join("rbd");
        let mut mounts = leaks::mounts_in(&mountinfo, &root);
        // On the folder itself, and on the engine's bind mount of it.
        mounts.dedup();
        mounts.iter().filter_map(|path| path.strip_prefix(&root).ok()).map(Path::to_owned).collect()
    }

    /// Waits until exactly these volumes are mounted.
    pub(crate) fn wait_mounted(&self, plugin: &str, volumes: &[&str]) {
        let mut expected: Vec<PathBuf> = volumes.iter().map(|v| Path::new("rbd").join(v)).collect();
        expected.sort();
        wait(&format!("mounted of {plugin} to be {volumes:?}\n{}", tail(&self.engine.log())), || {
            self.mounted(plugin) == expected
        });
    }

    /// The loop devices of the images: their paths are the plugin's.
    pub(crate) fn loops(&self) -> usize {
        leaks::loops_of(&leaks::files_under(&self.dir.join("images"), ".img")).len()
    }

    /// `Status` of `docker volume inspect`.
    pub(crate) fn status(&self, volume: &str) -> serde_json::Value {
        let text = self.engine.ok(&["volume", "inspect", "-f", "{{json .Status}}", volume]);
        serde_json::from_str(&text).expect("inspect prints JSON")
    }

    /// The end of every case: removes containers, volumes and plugins as a user would, and finds nothing left of them.
    pub(crate) fn finish(mut self) {
        let listed = |args: &[&str]| -> Vec<String> {
            self.engine.ok(args).split_whitespace().map(str::to_owned).collect()
        };
        for container in listed(&["ps", "-aq"]) {
            self.engine.ok(&["rm", "-f", "-v", &container]);
        }
        let plugins = listed(&["plugin", "ls", "--format", "{{.Name}}"]);
        plugins.iter().for_each(|plugin| self.wait_mounted(plugin, &[]));
        for volume in listed(&["volume", "ls", "-q"]) {
            self.engine.ok(&["volume", "rm", &volume]);
        }
        for ending in [".img", ".json", ".owner"] {
            let left = leaks::files_under(&self.dir.join("images"), ending);
            assert!(
                left.is_empty(),
                "left after removing every volume: {left:?}\n{}",
                tail(&self.engine.log())
            );
        }
        for plugin in listed(&["plugin", "ls", "-q", "--filter", "enabled=true"]) {
            self.engine.ok(&["plugin", "disable", &plugin]);
        }
        for plugin in plugins {
            self.engine.ok(&["plugin", "rm", &plugin]);
        }
        let case = self.dir.file_name().expect("the case").to_string_lossy().into_owned();
        self.engine.stop();
        let left = leaks::processes_of(Some(&case));
        assert!(left.is_empty(), "processes left: {left:?}");
        self.finished = true;
        fs::remove_dir_all(&self.dir).expect("the folder of the case can be removed");
    }
}

/// After a failed case: ends and takes down by force what is of this case, and leaves its logs.
impl Drop for Managed {
    fn drop(&mut self) {
        if self.finished {
            self.ids.borrow().iter().for_each(|id| leaks::remove_plugins_cgroups(id));
            return;
        }
        eprintln!("{}", tail(&self.engine.log()));
        let images = leaks::files_under(&self.dir.join("images"), ".img");
        self.engine.force_down();
        leaks::clear(&self.dir, self.dir.file_name().and_then(|case| case.to_str()));
        leaks::detach(&leaks::loops_of(&images));
        self.ids.borrow().iter().for_each(|id| leaks::remove_plugins_cgroups(id));
    }
}
