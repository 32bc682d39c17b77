//! What a case works in: a folder, an engine, a plugin, and the questions to the kernel.

use std::fs;
use std::path::PathBuf;

use crate::daemon::{tail, wait};
use crate::engine::Engine;
use crate::leaks;
use crate::plugin::Plugin;

/// An empty folder for a case.
pub(crate) fn folder(case: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("docker").join(case);
    if dir.exists() {
        fs::remove_dir_all(&dir).expect("the folder of an earlier run can be removed");
    }
    fs::create_dir_all(&dir).expect("a folder for the case");
    dir
}

/// One case's world.
pub(crate) struct World {
    /// Images, mounts, logs, the engine's data.
    pub(crate) dir: PathBuf,
    /// The Docker engine.
    pub(crate) engine: Engine,
    /// The plugin under test.
    pub(crate) plugin: Plugin,
    case: String,
    finished: bool,
}

impl World {
    /// An engine and a plugin named after the case, both ready.
    pub(crate) fn new(case: &str) -> Self {
        Self::with(case, &[], &[])
    }

    /// The same with further flags for either.
    pub(crate) fn with(case: &str, engine: &[&str], plugin: &[&str]) -> Self {
        let dir = folder(case);
        let plugin = Plugin::start(case, case, &dir, plugin);
        let engine = Engine::start(case, &dir, engine);
        Self { dir, engine, plugin, case: case.to_owned(), finished: false }
    }

    /// An engine, and a plugin that it knows as `rbd`.
    pub(crate) fn rbd(case: &str) -> Self {
        let dir = folder(case);
        let plugin = Plugin::start(case, "rbd", &dir, &[]);
        let engine = Engine::start(case, &dir, &[]);
        Self { dir, engine, plugin, case: case.to_owned(), finished: false }
    }

    /// `docker run --rm` of a shell script on this plugin's volumes; what it wrote to stdout.
    pub(crate) fn run(&self, args: &[&str], script: &str) -> String {
        self.engine.ok(&self.run_line(args, script))
    }

    /// The same, expecting it to fail; what it wrote to stderr.
    pub(crate) fn run_fails(&self, args: &[&str], script: &str) -> String {
        self.engine.fails(&self.run_line(args, script))
    }

    fn run_line<'a>(&'a self, args: &[&'a str], script: &'a str) -> Vec<&'a str> {
        let run = ["run", "--rm", "--network", "none", "--volume-driver", &self.plugin.name];
        [&run, args, &["sh", "-c", script]].concat()
    }

    /// Starts a container that goes on until it is stopped.
    pub(crate) fn start(&self, name: &str, args: &[&str], script: &str) {
        let run = ["run", "-d", "--name", name, "--network", "none", "--stop-signal", "KILL"];
        let driver = ["--volume-driver", &self.plugin.name];
        self.engine.ok(&[&run[..], &driver, args, &["sh", "-c", script]].concat());
    }

    /// Starts a container that appends to `/vol/log` of the volume ten times a second.
    pub(crate) fn start_writer(&self, name: &str, volume: &str) {
        let mount = format!("{volume}:/vol");
        self.start(name, &["-v", &mount, "bb"], "while echo line >> /vol/log; do sleep .1; done");
    }

    /// Waits until the writer's log has grown, as seen from inside its container.
    pub(crate) fn still_writes(&self, container: &str) {
        let lines = || -> u64 {
            let count = self.exec(container, "wc -l < /vol/log || echo 0");
            count.trim().parse().expect("wc prints a number")
        };
        let before = lines();
        wait(&format!("container {container} to go on writing"), || lines() > before);
    }

    /// Runs a script in a running container.
    pub(crate) fn exec(&self, container: &str, script: &str) -> String {
        self.engine.ok(&["exec", container, "sh", "-c", script])
    }

    /// Makes a volume.
    pub(crate) fn create(&self, volume: &str, options: &[&str]) {
        let options: Vec<&str> = options.iter().flat_map(|o| ["-o", o]).collect();
        self.engine.ok(&[&["volume", "create", "-d", &self.plugin.name], &options[..], &[volume]].concat());
    }

    /// `docker volume inspect` of one volume.
    pub(crate) fn inspect(&self, volume: &str) -> serde_json::Value {
        let text = self.engine.ok(&["volume", "inspect", volume]);
        let mut all: Vec<serde_json::Value> = serde_json::from_str(&text).expect("inspect prints JSON");
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    /// The mounts of this plugin's volumes.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        leaks::mounts_under(&self.plugin.mount_root())
    }

    /// Waits until exactly these volumes of the default pool are mounted, each on one loop device.
    pub(crate) fn wait_mounted(&self, volumes: &[&str]) {
        let mut expected: Vec<PathBuf> = volumes.iter().map(|v| self.plugin.mountpoint(v)).collect();
        expected.sort();
        wait(&format!("mounted to be {volumes:?}\n{}", tail(&self.plugin.log())), || {
            self.mounts() == expected && leaks::loops_under(&self.dir).len() == volumes.len()
        });
    }

    /// Asserts right now, without waiting, that exactly these volumes are mounted.
    pub(crate) fn assert_mounted(&self, volumes: &[&str]) {
        let mut expected: Vec<PathBuf> = volumes.iter().map(|v| self.plugin.mountpoint(v)).collect();
        expected.sort();
        assert_eq!(self.mounts(), expected, "mounted volumes\n{}", tail(&self.plugin.log()));
    }

    /// The end of every case: removes containers and volumes as a user would, and finds nothing left of them.
    pub(crate) fn finish(mut self) {
        let containers = self.engine.ok(&["ps", "-aq"]);
        let containers: Vec<&str> = containers.split_whitespace().collect();
        if !containers.is_empty() {
            self.engine.ok(&[&["rm", "-f", "-v"], &containers[..]].concat());
        }
        self.wait_mounted(&[]);
        let owners = || leaks::files_under(&self.plugin.images(), ".owner");
        let is_free = |file: &PathBuf| fs::read(file).is_ok_and(|record| record.starts_with(b"\0"));
        wait("the images to be given back", || owners().iter().all(is_free));
        let volumes = self.engine.ok(&["volume", "ls", "-q"]);
        for volume in volumes.split_whitespace() {
            self.engine.ok(&["volume", "rm", volume]);
        }
        for ending in [".img", ".json", ".owner"] {
            let left = leaks::files_under(&self.plugin.images(), ending);
            assert!(
                left.is_empty(),
                "left after removing every volume: {left:?}\n{}",
                tail(&self.plugin.log())
            );
        }
        self.engine.stop();
        self.plugin.stop();
        let left = leaks::processes_of(Some(&self.case));
        assert!(left.is_empty(), "processes left: {left:?}");
        self.finished = true;
        fs::remove_dir_all(&self.dir).expect("the folder of the case can be removed");
    }
}

/// After a failed case: ends and takes down by force what is of this case, and leaves its logs.
impl Drop for World {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        eprintln!("{}\n{}", tail(&self.engine.log()), tail(&self.plugin.log()));
        self.engine.force_down();
        self.plugin.kill();
        leaks::clear(&self.dir, Some(&self.case));
    }
}
