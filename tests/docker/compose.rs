//! Volumes as Compose uses them: the files of docs/compose.md, and the commands that the page
//! shows.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Output;

use serde_json::json;

use crate::Case;
use crate::daemon::wait;
use crate::leaks;
use crate::page;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("compose-up-twice", up_twice),
    ("compose-restarts", restarts),
    ("compose-two-projects", two_projects),
    ("compose-on-another-host", on_another_host),
    ("compose-names", names),
    ("compose-scale", scale),
];

/// Why these cases cannot run here, if so.
pub(crate) fn missing() -> Option<String> {
    crate::engine::missing(&["docker-compose"])
}

/// Merged with the page's files: the engine under test has no bridge, and a shell waits for
/// nobody's SIGTERM.
const OVERRIDE: &str = "network_mode: none, stop_signal: SIGKILL";

/// A project: a folder with a file of the page.
struct Project<'a> {
    world: &'a World,
    dir: PathBuf,
}

impl<'a> Project<'a> {
    /// `name` is `FOLDER/compose.yaml`.
    fn new(world: &'a World, name: &str, services: &[&str]) -> Self {
        page::write(name, &world.dir);
        let dir = world.dir.join(name).parent().expect("a folder").to_owned();
        let services: String =
            services.iter().map(|service| format!("  {service}: {{{OVERRIDE}}}\n")).collect();
        fs::write(dir.join("override.yaml"), format!("services:\n{services}")).expect("a second file");
        Self { world, dir }
    }

    /// A line of the page, run in the project's folder.
    fn line(&self, line: &str) -> Output {
        let mut sh = self.world.engine.client("sh");
        sh.args(["-c", line]).current_dir(&self.dir);
        sh.env("COMPOSE_FILE", "compose.yaml:override.yaml").env("COMPOSE_PARALLEL_LIMIT", "100");
        sh.env_remove("COMPOSE_PROJECT_NAME").env("COMPOSE_HTTP_TIMEOUT", "300");
        sh.output().expect("sh runs")
    }

    /// The same, expecting success; what it wrote to stdout.
    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let output = self.line(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The same, expecting failure; what it wrote to stderr.
    #[track_caller]
    fn fails(&self, line: &str) -> String {
        let output = self.line(line);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{line} succeeded\n{stderr}");
        stderr
    }

    /// Changes a word of the file, as its user would.
    fn edit(&self, from: &str, to: &str) {
        let path = self.dir.join("compose.yaml");
        let text = fs::read_to_string(&path).expect("the file of the project");
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(path, text.replace(from, to)).expect("it can be written");
    }
}

/// A world whose images have the name that the page uses.
fn world(case: &str) -> World {
    let w = World::rbd(case);
    w.engine.ok(&["tag", "bb", "alpine"]);
    w
}

/// The project of the page, with its external volume.
fn shop(w: &World) -> Project<'_> {
    let shop = Project::new(w, "shop/compose.yaml", &["web"]);
    shop.ok("docker volume create -d rbd -o size=512M orders");
    shop
}

/// What must not change: the image itself and its record.
fn image(w: &World, volume: &str) -> (u64, u64, String) {
    let image = fs::metadata(w.plugin.image(volume)).expect("the image is there");
    (image.ino(), image.len(), fs::read_to_string(w.plugin.file(volume, "json")).expect("its record"))
}

/// The first `up` makes the volume, the second finds it; changed options are refused by Compose,
/// and by us; `down` keeps what is external.
fn up_twice(case: &str) {
    let w = world(case);
    let shop = Project::new(&w, "shop/compose.yaml", &["web"]);
    let refused = shop.fails("docker-compose up -d");
    assert!(refused.contains("declared as external, but could not be found"), "{refused}");
    assert!(!w.plugin.image("shop_data").exists() || !w.plugin.image("orders").exists());

    shop.ok("docker volume create -d rbd -o size=512M orders");
    shop.ok("docker-compose up -d");
    w.wait_mounted(&["orders", "shop_data"]);
    assert_eq!(shop.ok("docker volume ls -q"), "orders\nshop_data\n");
    let made = image(&w, "shop_data");
    assert_eq!(made.1, 1 << 30);
    let status = w.inspect("shop_data")["Status"].clone();
    assert_eq!((&status["size"], &status["fstype"]), (&json!("1G"), &json!("ext4")), "{status}");
    let container = shop.ok("docker-compose ps -q");

    shop.ok("docker-compose up -d");
    assert_eq!(shop.ok("docker-compose ps -q"), container, "the second up changes nothing");
    // Other versions of Compose, and other hosts, send the Create again.
    let options = json!({"size": "1G", "fstype": "ext4", "mount-options": "noatime"});
    for _ in 0..2 {
        let again = w.plugin.call("/VolumeDriver.Create", &json!({"Name": "shop_data", "Opts": options}));
        assert_eq!(again.0, 200, "{again:?}");
    }
    assert_eq!(image(&w, "shop_data"), made);

    assert_eq!(shop.ok("docker-compose run --rm web sh -c 'echo 1 > /orders/one; cat /orders/one'"), "1\n");
    w.assert_mounted(&["orders", "shop_data"]);
    assert_eq!(w.inspect("orders")["Status"]["mount-ids"].as_object().map(|ids| ids.len()), Some(1));

    shop.edit("size: 1G", "size: 2G");
    let refused = shop.fails("docker-compose up -d");
    assert!(refused.contains(r#""size" driver_opt 2G"#) && refused.contains("(1G)"), "{refused}");
    let other = json!({"Name": "shop_data", "Opts": {"size": "2G"}});
    let (code, answer) = w.plugin.call("/VolumeDriver.Create", &other);
    let said = answer["Err"].as_str().unwrap_or_default().to_owned();
    assert!(code == 500 && said.contains("size is 1G, not 2G"), "{code} {said}");
    assert_eq!(image(&w, "shop_data"), made);
    shop.edit("size: 2G", "size: 1G");

    shop.ok("docker-compose down");
    w.wait_mounted(&[]);
    assert_eq!(image(&w, "shop_data"), made, "down keeps the volumes");
    shop.ok("docker-compose up -d");
    shop.ok("docker-compose down -v");
    w.wait_mounted(&[]);
    assert_eq!(shop.ok("docker volume ls -q"), "orders\n", "down -v keeps what is external");
    assert!(!w.plugin.image("shop_data").exists() && w.plugin.image("orders").exists());
    w.finish();
}

/// Plugin and engine are stopped or killed between two `up`: what the project had is there.
fn restarts(case: &str) {
    let mut w = world(case);
    let dir = shop(&w).dir;
    let project = |w: &World, line: &str| Project { world: w, dir: dir.clone() }.ok(line);
    project(&w, "docker-compose up -d");
    project(&w, "docker-compose run --rm web sh -c 'echo kept > /orders/file; sync'");
    w.plugin.kill();
    w.plugin.up();
    project(&w, "docker-compose up -d");
    w.wait_mounted(&["orders", "shop_data"]);
    w.engine.stop();
    w.plugin.stop();
    w.plugin.up();
    w.engine.up();
    project(&w, "docker-compose up -d");
    w.wait_mounted(&["orders", "shop_data"]);
    assert_eq!(project(&w, "docker-compose exec -T web cat /orders/file"), "kept\n");
    project(&w, "docker-compose down -v");
    w.wait_mounted(&[]);
    w.finish();
}

/// Two projects share a volume: one mount on one host; neither's `down -v` takes it from the other.
fn two_projects(case: &str) {
    let w = world(case);
    let shop = shop(&w);
    let reports = Project::new(&w, "reports/compose.yaml", &["reports"]);
    shop.ok("docker-compose up -d");
    reports.ok("docker-compose up -d");
    w.wait_mounted(&["orders", "shop_data"]);
    shop.ok("docker-compose exec -T web sh -c 'echo sold > /orders/log'");
    assert_eq!(reports.ok("docker-compose exec -T reports cat /orders/log"), "sold\n");
    let said = reports.fails("docker-compose exec -T reports touch /orders/other");
    assert!(said.contains("Read-only file system"), "{said}");
    reports.ok("docker-compose down -v");
    w.wait_mounted(&["orders", "shop_data"]);
    assert_eq!(shop.ok("docker-compose exec -T web cat /orders/log"), "sold\n");

    // The same volume, not declared as external: Compose wants to remove it, and may not while the
    // other project uses it.
    reports.edit("    external: true\n", "    driver: rbd\n    driver_opts: {size: 512M}\n");
    reports.ok("docker-compose up -d");
    let output = reports.line("docker-compose down -v");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("volume is in use"), "{said}");
    assert_eq!(shop.ok("docker-compose exec -T web cat /orders/log"), "sold\n");
    shop.ok("docker-compose down -v");
    assert!(w.plugin.image("orders").exists());
    w.finish();
}

/// Another host's Docker finds the volume and does not know with which options it was made: Compose
/// refuses it, unless Docker was told first, or the file says that the volume is external.
fn on_another_host(case: &str) {
    let mut w = world(case);
    let dir = shop(&w).dir;
    let project = |w: &World, line: &str| Project { world: w, dir: dir.clone() }.ok(line);
    project(&w, "docker-compose up -d && docker-compose down");
    let made = image(&w, "shop_data");

    forget_volumes(&mut w);
    project(&w, "docker volume create -d rbd -o size=1G -o fstype=ext4 -o mount-options=noatime shop_data");
    project(&w, "docker-compose up -d");
    w.wait_mounted(&["orders", "shop_data"]);
    project(&w, "docker-compose down");

    forget_volumes(&mut w);
    let shop = Project { world: &w, dir };
    let refused = shop.fails("docker-compose up -d");
    assert!(refused.contains("driver_opt") && refused.contains("(None)"), "{refused}");
    let text = page::file("shop/compose.yaml");
    let (before, after) = text.split_once("  data:\n    driver").expect("the volume is in the file");
    let after = after.split_once("  orders:\n").expect("the other volume follows").1;
    let text = format!("{before}  data:\n    name: shop_data\n    external: true\n  orders:\n{after}");
    fs::write(shop.dir.join("compose.yaml"), text).expect("the file can be written");
    shop.ok("docker-compose up -d");
    w.wait_mounted(&["orders", "shop_data"]);
    assert_eq!(image(&w, "shop_data"), made);
    shop.ok("docker-compose down -v");
    assert!(w.plugin.image("shop_data").exists(), "it is external now");
    w.finish();
}

/// What makes an engine that of another host: it has never seen the volumes.
fn forget_volumes(w: &mut World) {
    w.engine.stop();
    fs::remove_file(w.dir.join("engine/volumes/metadata.db")).expect("what Docker knows of volumes");
    w.engine.up();
}

/// Names that Compose makes up and names that the file gives, with a pool in front.
fn names(case: &str) {
    let w = world(case);
    fs::create_dir_all(w.plugin.images().join("ssd")).expect("another pool");
    let names = Project::new(&w, "names/compose.yaml", &["web"]);
    names.ok("docker-compose up -d");
    assert_eq!(names.ok("docker volume ls -q"), "archive\nnames_plain\nssd/orders\n");
    for image in ["ssd/orders.img", "rbd/archive.img", "rbd/names_plain.img"] {
        assert!(w.plugin.images().join(image).exists(), "{image}");
    }
    let size = fs::metadata(w.plugin.image("archive")).expect("the image is there").len();
    assert_eq!(size, 256 << 20, "a number behind @ is MiB");
    let small = fs::metadata(w.plugin.image("names_plain")).expect("the image is there").len();
    assert_eq!(small, 16 << 20, "a bare number is MiB");
    names.ok("docker-compose down -v");
    assert_eq!(names.ok("docker volume ls -q"), "");
    w.finish();
}

/// Twenty replicas at once, then more than an engine ever asked for at the same time, then none.
fn scale(case: &str) {
    const MANY: usize = 70;
    let w = world(case);
    let shop = shop(&w);
    let uses = || w.inspect("orders")["Status"]["mount-ids"].as_object().map_or(0, serde_json::Map::len);
    shop.ok("docker-compose up -d --scale web=20");
    w.assert_mounted(&["orders", "shop_data"]);
    assert_eq!(uses(), 20);
    shop.ok(&format!("docker-compose up -d --scale web={MANY}"));
    assert_eq!(uses(), MANY);
    assert_eq!(leaks::files_under(&w.plugin.images(), ".img").len(), 2);
    shop.ok("docker-compose down -v");
    wait("no use to be left", || uses() == 0);
    w.wait_mounted(&[]);
    w.finish();
}
