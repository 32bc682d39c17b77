//! Many containers at once, as `docker compose up` starts them.

use crate::Case;
use crate::leaks;
use crate::world::World;

pub(crate) const CASES: &[Case] =
    &[("twenty-volumes", twenty_volumes), ("twenty-on-one-volume", twenty_on_one_volume)];

const MANY: usize = 20;

/// Each container makes a volume of its own.
fn twenty_volumes(case: &str) {
    let w = World::new(case);
    let names: Vec<String> = (0..MANY).map(|n| format!("v{n:02}")).collect();
    start_all(&w, &names, |name| name);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    w.wait_mounted(&names);
    for name in &names {
        assert_eq!(w.exec(name, "cat /vol/*"), format!("{name}\n"));
    }
    w.engine.ok(&[&["stop"], &names[..]].concat());
    w.wait_mounted(&[]);
    w.finish();
}

/// All of them make and use the same volume.
fn twenty_on_one_volume(case: &str) {
    let w = World::new(case);
    let names: Vec<String> = (0..MANY).map(|n| format!("c{n:02}")).collect();
    start_all(&w, &names, |_| "data");
    w.wait_mounted(&["data"]);
    assert_eq!(leaks::files_under(&w.plugin.images(), ".img").len(), 1);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let all = names.join("\n") + "\n";
    assert_eq!(w.exec(names[0], "ls /vol"), all);

    let (last, first) = names.split_last().expect("there are many");
    w.engine.ok(&[&["stop"], first].concat());
    w.assert_mounted(&["data"]);
    assert_eq!(w.exec(last, "ls /vol"), all);
    w.engine.ok(&["stop", last]);
    w.wait_mounted(&[]);
    w.finish();
}

/// Starts a container of each name at the same moment; each writes its name to the volume.
fn start_all(w: &World, names: &[String], volume: impl Fn(&str) -> &str + Sync) {
    std::thread::scope(|scope| {
        for name in names {
            let mount = format!("{}:/vol", volume(name));
            let script = format!("echo {name} > /vol/{name}; sleep 1000");
            scope.spawn(move || w.start(name, &["-v", &mount, "bb"], &script));
        }
    });
}
