//! One image, two hosts: who may have it, and what becomes of those who lose it.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::daemon::wait;
use crate::plugin::Plugin;
use crate::rig::{Lab, test};
use crate::volumes::start;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("ownership_handed_over_when_the_other_unmounts", handed_over),
        test("ownership_of_fifteen_volumes_in_a_race", race),
        test("ownership_after_a_power_loss", power_loss),
        test("ownership_of_a_frozen_host_that_wakes_up", frozen),
        test("ownership_of_a_host_without_network", cut),
        test("ownership_is_kept_by_a_host_whose_plugin_is_gone", plugin_gone),
        test("ownership_own_leftovers_after_a_power_loss", own_leftovers),
        test("ownership_broken_by_an_administrator", administrator),
        test("ownership_with_an_exclusive_lock", exclusive),
        test("ownership_unmount_of_a_host_on_the_blocklist", blocked_unmount),
    ]
}

/// Two plugins, and a volume.
fn pair<'a>(lab: &'a Lab, volume: &str, flags: &[&str]) -> (Plugin<'a>, Plugin<'a>) {
    let one = start(lab, lab.alpha(), flags);
    let two = start(lab, lab.beta(), flags);
    one.ok("Create", &json!({"Name": volume}));
    (one, two)
}

fn end(mut one: Plugin<'_>, mut two: Plugin<'_>, volume: &str) {
    two.ok("Remove", &json!({"Name": volume}));
    one.stop();
    two.stop();
}

fn status(plugin: &Plugin<'_>, volume: &str) -> Value {
    plugin.ok("Get", &json!({"Name": volume}))["Volume"]["Status"].clone()
}

fn write(lab: &Lab, plugin: &Plugin<'_>, volume: &str, text: &str) {
    lab.alpha().ok(&format!("echo {text} >{}/file && sync", plugin.mountpoint(volume).display()));
}

/// What the second host reads after its Mount, which must succeed; how long that took.
fn read_on_beta(lab: &Lab, two: &Plugin<'_>, volume: &str) -> (String, Duration) {
    let begin = Instant::now();
    let mountpoint = two.mount(volume, "b");
    (lab.beta().ok(&format!("cat {}/file", mountpoint.display())), begin.elapsed())
}

fn handed_over(lab: &Lab) {
    let (one, mut two) = pair(lab, "hand", &["--owner-wait", "60"]);
    one.mount("hand", "a");
    write(lab, &one, "hand", "from-alpha");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| read_on_beta(lab, &two, "hand"));
        std::thread::sleep(Duration::from_secs(5));
        assert!(!waiting.is_finished(), "mounted on two hosts");
        one.unmount("hand", "a");
        assert_eq!(waiting.join().unwrap().0, "from-alpha");
    });
    two.unmount("hand", "b");
    two.restart_with(&["--owner-wait", "0"]);
    one.mount("hand", "the-mount-id");
    wait("the mount ID to be on record", || {
        status(&two, "hand")["owner"].to_string().contains("the-mount-id")
    });
    let refused = two.error("Mount", &json!({"Name": "hand", "ID": "b"}));
    for part in ["in use", "host alpha", "since", "mount ID the-mount-id"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    one.unmount("hand", "the-mount-id");
    end(one, two, "hand");
}

fn race(lab: &Lab) {
    let (one, two) = pair(lab, "race-0", &["--owner-wait", "0"]);
    let volumes: Vec<String> = (0..15).map(|n| format!("race-{n}")).collect();
    for volume in &volumes[1..] {
        one.ok("Create", &json!({"Name": volume, "Opts": {"size": "16M"}}));
    }
    let all = |plugin: &Plugin<'_>, volumes: &[&String]| -> Vec<bool> {
        std::thread::scope(|scope| {
            let mounts: Vec<_> = volumes
                .iter()
                .map(|volume| scope.spawn(move || plugin.ask("Mount", &json!({"Name": volume, "ID": "x"}))))
                .collect();
            mounts
                .into_iter()
                .map(|mount| mount.join().unwrap().is_some_and(|(status, _)| status == 200))
                .collect()
        })
    };
    let forwards: Vec<&String> = volumes.iter().collect();
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| all(&one, &forwards));
        let second = scope.spawn(|| all(&two, &forwards));
        (first.join().unwrap(), second.join().unwrap())
    });
    for (at, volume) in volumes.iter().enumerate() {
        assert!(first[at] != second[at], "{volume}: alpha {}, beta {}", first[at], second[at]);
        let winner = if first[at] { &one } else { &two };
        assert!(winner.mounts(volume), "{volume}");
        let loser = if first[at] { &two } else { &one };
        assert!(!loser.mounts(volume), "{volume}");
        winner.unmount(volume, "x");
        two.ok("Remove", &json!({"Name": volume}));
    }
    let (mut one, mut two) = (one, two);
    one.stop();
    two.stop();
}

fn power_loss(lab: &Lab) {
    let (one, two) = pair(lab, "power", &[]);
    one.mount("power", "a");
    write(lab, &one, "power", "kept");
    lab.alpha().power_off();
    let (text, took) = read_on_beta(lab, &two, "power");
    assert_eq!(text, "kept");
    println!("taken over {:.1} s after the power loss", took.as_secs_f32());
    two.unmount("power", "b");
    lab.alpha().boot();
    let one = start(lab, lab.alpha(), &[]);
    one.mount("power", "a");
    one.unmount("power", "a");
    end(one, two, "power");
}

/// Law: what it has in memory when it wakes up must not reach the disk.
fn frozen(lab: &Lab) {
    let (one, two) = pair(lab, "frozen", &[]);
    let mountpoint = one.mount("frozen", "a");
    // Written, and not synced: it is in the page cache when the host freezes.
    let file = mountpoint.join("file").display().to_string();
    lab.alpha().ok(&format!("echo old-old-old >{file} && sync"));
    let late = lab.alpha().spawn(
        &format!("sleep 60; dd if=/dev/zero of={file} bs=11 count=1 conv=notrunc,fsync 2>&1; echo wrote $?"),
        Duration::from_secs(600),
    );
    lab.alpha().ok(&format!("echo cached >{}/late", mountpoint.display()));
    lab.alpha().freeze();
    let (text, _) = read_on_beta(lab, &two, "frozen");
    assert_eq!(text, "old-old-old");
    let theirs = two.mountpoint("frozen").display().to_string();
    lab.beta().ok(&format!("echo new-new-new >{theirs}/file && sync"));
    lab.alpha().thaw();
    let said = late.wait().stdout;
    assert!(!said.contains("wrote 0"), "the late write succeeded: {said}");
    wait("the woken host to give the volume up", || !one.mounts("frozen"));
    assert_eq!(status(&one, "frozen")["health"], json!("fenced"));
    lab.alpha().ok("sync; echo 3 >/proc/sys/vm/drop_caches; test -z \"$(ls /sys/bus/rbd/devices)\"");
    // As the disk has it, and not this host's memory.
    two.unmount("frozen", "b");
    assert_eq!(read_on_beta(lab, &two, "frozen").0, "new-new-new");
    assert_eq!(lab.beta().ok(&format!("ls {theirs}")), "file");
    two.unmount("frozen", "b");
    one.unmount("frozen", "a");
    one.mount("frozen", "c");
    assert_eq!(status(&one, "frozen")["health"], json!("ok"));
    one.unmount("frozen", "c");
    end(one, two, "frozen");
}

fn cut(lab: &Lab) {
    let (one, two) = pair(lab, "cut-off", &[]);
    one.mount("cut-off", "a");
    write(lab, &one, "cut-off", "kept");
    lab.alpha().cut_network();
    let hangs =
        format!("dd if=/dev/zero of={}/zeros bs=1M count=4 conv=fsync", one.mountpoint("cut-off").display());
    let hangs = lab.alpha().spawn(&hangs, Duration::from_secs(600));
    assert_eq!(read_on_beta(lab, &two, "cut-off").0, "kept");
    let get = one.ok("Get", &json!({"Name": "cut-off"}));
    assert_eq!(
        get["Volume"]["Mountpoint"],
        json!(one.mountpoint("cut-off")),
        "answered without a network: {get}"
    );
    assert!(!hangs.is_done(), "written without a network");
    lab.alpha().restore_network();
    assert_ne!(hangs.wait().status, 0, "written after it was fenced");
    wait("the fenced host to give the volume up", || !one.mounts("cut-off"));
    one.unmount("cut-off", "a");
    two.unmount("cut-off", "b");
    end(one, two, "cut-off");
}

fn plugin_gone(lab: &Lab) {
    let (mut one, two) = pair(lab, "alone", &["--owner-wait", "0"]);
    one.mount("alone", "a");
    one.kill();
    let begin = Instant::now();
    let mut refused = String::new();
    // Longer than a heartbeat lasts, and than its absence has to.
    while begin.elapsed() < Duration::from_secs(45) {
        refused = two.error("Mount", &json!({"Name": "alone", "ID": "b"}));
        std::thread::sleep(Duration::from_secs(2));
    }
    assert!(refused.contains("its host still uses the image"), "{refused}");
    one.start();
    one.unmount("alone", "a");
    two.mount("alone", "b");
    two.unmount("alone", "b");
    end(one, two, "alone");
}

fn own_leftovers(lab: &Lab) {
    let one = start(lab, lab.alpha(), &[]);
    one.ok("Create", &json!({"Name": "mine"}));
    one.mount("mine", "a");
    write(lab, &one, "mine", "kept");
    let (machine, boot) = ("cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id");
    let before = (lab.alpha().ok(machine), lab.alpha().ok(boot));
    lab.alpha().ok("touch /root/changed; echo kept >/disk/kept; sync; echo lost >/disk/lost");
    lab.alpha().power_off();
    lab.alpha().boot();
    assert_eq!(lab.alpha().ok(machine), before.0);
    assert_ne!(lab.alpha().ok(boot), before.1);
    let there = "ls /root/changed /disk/kept /disk/lost 2>/dev/null; rm -f /disk/kept; true";
    assert_eq!(lab.alpha().ok(there), "/disk/kept", "what was not synced is lost");
    let mut one = start(lab, lab.alpha(), &[]);
    let begin = Instant::now();
    one.mount("mine", "a");
    println!("mounted again {:.1} s after the plugin was back", begin.elapsed().as_secs_f32());
    assert_eq!(lab.alpha().ok(&format!("cat {}/file", one.mountpoint("mine").display())), "kept");
    one.unmount("mine", "a");
    one.ok("Remove", &json!({"Name": "mine"}));
    one.stop();
}

fn administrator(lab: &Lab) {
    let (one, two) = pair(lab, "broken", &["--owner-wait", "0"]);
    one.mount("broken", "a");
    write(lab, &one, "broken", "kept");
    let conf = lab.cluster.conf().display().to_string();
    let program = env!("CARGO_BIN_EXE_rbd-docker-plugin");
    let command = format!("{program} --conf-file none --config {conf} --user docker");
    let listed: Value =
        serde_json::from_str(&lab.beta().ok(&format!("{command} lock ls --format json"))).unwrap();
    assert!(listed.to_string().contains("alpha"), "{listed}");
    let refused = lab.beta().fails(&format!("{command} lock break rbd/broken"));
    assert!(refused.contains("--force"), "{refused}");
    lab.beta().ok(&format!("{command} fence alpha"));
    assert_eq!(read_on_beta(lab, &two, "broken").0, "kept");
    wait("the fenced host to give the volume up", || !one.mounts("broken"));
    one.unmount("broken", "a");
    two.unmount("broken", "b");
    end(one, two, "broken");
}

/// An Unmount at once, perhaps before the plugin knows of it: the kernel writes nothing any more, and lets go of the device all the same.
fn blocked_unmount(lab: &Lab) {
    let mut one = start(lab, lab.alpha(), &[]);
    one.ok("Create", &json!({"Name": "shut-out"}));
    one.mount("shut-out", "a");
    write(lab, &one, "shut-out", "kept");
    lab.alpha().ok(&format!("echo unwritten >{}/late", one.mountpoint("shut-out").display()));
    let conf = lab.cluster.conf().display().to_string();
    let program = env!("CARGO_BIN_EXE_rbd-docker-plugin");
    let locks = || -> Value {
        let command =
            format!("{program} --conf-file none --config {conf} --user docker lock ls --format json");
        serde_json::from_str::<Value>(&lab.alpha().ok(&command)).unwrap()["locks"].clone()
    };
    let lock =
        locks().as_array().unwrap().iter().find(|lock| lock["image"] == "rbd/shut-out").cloned().unwrap();
    for address in ["client_addr", "plugin_addr"] {
        lab.cluster.ceph(&["osd", "blocklist", "add", lock[address].as_str().unwrap(), "3600"]);
    }
    let begin = Instant::now();
    let answer = one.ask("Unmount", &json!({"Name": "shut-out", "ID": "a"})).unwrap();
    println!("answered after {:.1} s: {answer:?}", begin.elapsed().as_secs_f32());
    assert!(begin.elapsed() < Duration::from_secs(60), "longer than Docker waits");
    wait("it to be taken down", || !one.mounts("shut-out"));
    wait("the device to go", || lab.alpha().run("test -z \"$(ls /sys/bus/rbd/devices)\"").status == 0);
    wait("the image to be given back", || !locks().to_string().contains("rbd/shut-out"));
    let place = one.mount("shut-out", "b");
    assert_eq!(lab.alpha().ok(&format!("cat {}/file", place.display())), "kept");
    one.unmount("shut-out", "b");
    one.ok("Remove", &json!({"Name": "shut-out"}));
    one.stop();
}

fn exclusive(lab: &Lab) {
    let (one, two) = pair(lab, "cooperative", &["--owner-wait", "0"]);
    one.ok("Create", &json!({"Name": "exclusive", "Opts": {"lock": "exclusive"}}));
    for volume in ["cooperative", "exclusive"] {
        one.mount(volume, "a");
        write(lab, &one, volume, "kept");
    }
    lab.cluster.rbd(&["snap", "create", "--no-progress", "cooperative@while-mounted"]);
    let refused = lab.cluster.try_run("rbd", &["snap", "create", "--no-progress", "exclusive@while-mounted"]);
    assert!(!refused.status.success(), "the lock was lent");
    lab.beta().fails("rbd map --exclusive exclusive");
    for volume in ["cooperative", "exclusive"] {
        write(lab, &one, volume, "kept-on");
        one.unmount(volume, "a");
    }
    let refused = one.error("Remove", &json!({"Name": "cooperative"}));
    assert!(refused.contains("while-mounted"), "{refused}");
    lab.cluster.rbd(&["snap", "purge", "--no-progress", "cooperative"]);
    one.ok("Remove", &json!({"Name": "exclusive"}));
    end(one, two, "cooperative");
}
