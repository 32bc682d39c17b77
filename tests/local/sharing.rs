//! Who may use a volume: several mount IDs of one plugin, two plugins over one folder, other hosts, lives before a restart.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::mount::umount2;
use nix::sys::signal::{Signal, kill};
use rbd_docker_plugin::model::owner::Owner;
use rbd_docker_plugin::model::stored::Unknown;
use serde_json::json;

use crate::daemon::{Daemon, ask, wait};
use crate::rig::{Ready, Rig, mounts, trial};
use crate::volumes::{at_rest, create, devices, get, gone, mount_error, plugin, remove, remove_error};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Rig)| trial(&format!("sharing::{name}"), ready, test);
    vec![
        t("mount_ids_count", mount_ids_count),
        t("mount_ids_survive_restarts", mount_ids_survive_restarts),
        t("hundreds_of_clients_share_a_volume", hundreds_of_clients_share_a_volume),
        t("an_unmount_counts_whoever_holds_the_volume", an_unmount_counts_whoever_holds_the_volume),
        t("a_race_of_two_plugins_has_one_winner", a_race_of_two_plugins_has_one_winner),
        t("a_killed_owner_still_owns_what_it_mounted", a_killed_owner_still_owns_what_it_mounted),
        t("a_killed_owner_loses_what_is_mapped_no_more", a_killed_owner_loses_what_is_mapped_no_more),
        t("an_owner_on_another_host", an_owner_on_another_host),
        t("an_owner_record_that_is_not_understood", an_owner_record_that_is_not_understood),
        t("owners_that_are_provably_gone", owners_that_are_provably_gone),
        t("the_owner_file_stays_with_its_image", the_owner_file_stays_with_its_image),
    ]
}

fn ids(daemon: &Daemon) -> serde_json::Value {
    get(daemon, "v")["Status"]["mount-ids"].take()
}

fn mount_ids_count(rig: &Rig) {
    let daemon = plugin(rig, "ids", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    for volume in ["v", "never-was"] {
        daemon.unmount(volume, "unknown");
    }
    at_rest(&daemon, "v");
    gone(&daemon, "never-was");
    let at = daemon.mount("v", "a");
    for (id, counts) in
        [("a", json!({"a": 2})), ("b", json!({"a": 2, "b": 1})), ("b", json!({"a": 2, "b": 2}))]
    {
        assert_eq!(daemon.mount("v", id), at);
        assert_eq!(ids(&daemon), counts);
        assert_eq!(devices(&daemon.file("v", "img")).len(), 1, "one mount for all");
    }
    for (id, counts) in [
        ("unknown", json!({"a": 2, "b": 2})),
        ("a", json!({"a": 1, "b": 2})),
        ("b", json!({"a": 1, "b": 1})),
        ("a", json!({"b": 1})),
        ("a", json!({"b": 1})),
    ] {
        daemon.unmount("v", id);
        assert_eq!(ids(&daemon), counts, "after {id}");
        assert!(mounts().contains(&at));
    }
    daemon.unmount("v", "b");
    at_rest(&daemon, "v");
    daemon.unmount("v", "b");
    assert_eq!(ids(&daemon), json!(null));
}

fn mount_ids_survive_restarts(rig: &Rig) {
    let mut daemon = plugin(rig, "restarts", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let at = daemon.mount("v", "a");
    daemon.mount("v", "a");
    daemon.mount("v", "b");
    fs::write(at.join("file"), "data").unwrap();
    let restarts: [fn(&mut Daemon); 2] = [Daemon::stop, Daemon::kill];
    for (restart, counts) in restarts.iter().zip([json!({"a": 1, "b": 1}), json!({"b": 1})]) {
        restart(&mut daemon);
        assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "data", "it stays mounted meanwhile");
        daemon.start();
        assert_eq!(get(&daemon, "v")["Mountpoint"], json!(at));
        daemon.unmount("v", "unknown");
        daemon.unmount("v", "a");
        assert_eq!(ids(&daemon), counts);
    }
    let device = devices(&daemon.file("v", "img")).remove(0).path;
    assert_eq!(get(&daemon, "v")["Status"]["device"], json!(device));
    daemon.unmount("v", "b");
    at_rest(&daemon, "v");
    assert_eq!(fs::read_to_string(daemon.mount("v", "c").join("file")).unwrap(), "data");
    daemon.unmount("v", "c");
}

/// Of so many clients at once, none is refused and none is forgotten; kill -9 while their answers come brings none back.
fn hundreds_of_clients_share_a_volume(rig: &Rig) {
    const CLIENTS: usize = 500;
    let mut daemon = plugin(rig, "crowd", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let all_at_once = |daemon: &Daemon, endpoint: &str| {
        let together = Barrier::new(CLIENTS);
        let answers: Vec<_> = thread::scope(|scope| {
            let client = |n: usize| {
                let together = &together;
                move || {
                    together.wait();
                    daemon.ask(endpoint, &json!({"Name": "v", "ID": format!("id{n}")}))
                }
            };
            let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(client(n))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let refused: Vec<_> = answers.iter().filter(|answer| !matches!(answer, Some((200, _)))).collect();
        assert!(refused.is_empty(), "{} of {endpoint} refused: {:?}", refused.len(), refused[0]);
    };
    all_at_once(&daemon, "Mount");
    assert_eq!(get(&daemon, "v")["Status"]["mounts"], json!(CLIENTS));
    all_at_once(&daemon, "Unmount");
    at_rest(&daemon, "v");
    all_at_once(&daemon, "Mount");
    let killer = daemon.pid();
    let answered: Vec<usize> = thread::scope(|scope| {
        let client = |n: usize| {
            let daemon = &daemon;
            move || daemon.ask("Unmount", &json!({"Name": "v", "ID": format!("id{n}")})).map(|_| n)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(client(n))).collect();
        thread::sleep(Duration::from_millis(30));
        kill(killer, Signal::SIGKILL).unwrap();
        clients.into_iter().filter_map(|client| client.join().unwrap()).collect()
    });
    daemon.end();
    daemon.start();
    let left = ids(&daemon);
    for n in answered {
        assert!(left.get(format!("id{n}")).is_none(), "id{n} was unmounted, and came back");
    }
    (0..CLIENTS).for_each(|n| daemon.unmount("v", &format!("id{n}")));
    at_rest(&daemon, "v");
}

fn an_unmount_counts_whoever_holds_the_volume(rig: &Rig) {
    let mut daemon = plugin(rig, "held", &["--size", "16", "--wait", "1"]);
    create(&daemon, "v", &json!({}));
    daemon.mount("v", "a");
    daemon.mount("v", "b");
    daemon.stop();
    daemon.start_with(&[("RBD_FAULT_HANG", "info".to_owned())]);
    let socket = daemon.socket();
    // It holds the volume, for good.
    thread::spawn(move || ask(&socket, "Create", &json!({"Name": "v"}).to_string()));
    // Whatever asks whether it is held by now would hang as well.
    thread::sleep(Duration::from_secs(1));
    daemon.unmount("v", "a");
    let e = daemon.error("Unmount", &json!({"Name": "v", "ID": "b"}));
    assert!(e.contains("another operation on rbd/v did not end in time"), "{e}");
    daemon.kill();
    daemon.start();
    at_rest(&daemon, "v");
}

/// Two plugins over the folder of the first.
pub(crate) fn two(rig: &Rig) -> [Daemon; 2] {
    let one = plugin(rig, "one", &["--size", "4"]);
    let images = rig.path("one/images");
    let other = plugin(rig, "two", &["--size", "4", "--local-dir", images.to_str().unwrap()]);
    [one, other]
}

fn a_race_of_two_plugins_has_one_winner(rig: &Rig) {
    let daemons = two(rig);
    let [one, _] = &daemons;
    for n in 0..15 {
        let name = format!("v{n}");
        create(one, &name, &json!({}));
        let together = Barrier::new(2);
        let answers = thread::scope(|scope| {
            let race = |daemon| {
                let (name, together) = (&name, &together);
                move || {
                    together.wait();
                    Daemon::ask(daemon, "Mount", &json!({"Name": name, "ID": "a"})).unwrap()
                }
            };
            daemons.each_ref().map(|daemon| scope.spawn(race(daemon))).map(|thread| thread.join().unwrap())
        });
        let statuses = answers.each_ref().map(|answer| answer.0);
        assert!(matches!(statuses, [200, 500] | [500, 200]), "{name}: {answers:?}");
        let winner = statuses.iter().position(|status| *status == 200).unwrap();
        let (winner, loser, answer) = (&daemons[winner], &daemons[1 - winner], &answers[1 - winner].1);
        let e = answer["Err"].as_str().unwrap();
        assert!(e.starts_with("Unable to get Exclusive Lock: "), "{e}");
        let owner = format!("is in use by plugin \"{}\" on host ", winner.name);
        assert!(e.contains(&owner) && !e.contains("also:"), "{e}");
        assert_eq!(devices(&one.file(&name, "img")).len(), 1);
        assert!(mounts().contains(&winner.mountpoint(&name)));
        assert!(!mounts().contains(&loser.mountpoint(&name)) && !loser.mountpoint(&name).exists());
        let e = remove_error(loser, &name);
        assert!(
            e.starts_with(&format!("Unable to lock image for remove: {name}: ")) && e.contains(&owner),
            "{e}"
        );
        let seen = get(loser, &name);
        assert_eq!(seen["Mountpoint"], json!(null));
        assert!(
            seen["Status"]["owner"].as_str().unwrap().starts_with(owner.trim_start_matches("is in use by "))
        );
        // An Unmount of somebody who does not have it changes nothing.
        loser.unmount(&name, "a");
        assert!(one.is_owned(&name));
        winner.unmount(&name, "a");
        loser.mount(&name, "a");
        loser.unmount(&name, "a");
        daemons.iter().for_each(|daemon| at_rest_shared(one, daemon, &name));
    }
}

/// Nothing of the image is in use by `daemon`, whose images are those of `one`.
fn at_rest_shared(one: &Daemon, daemon: &Daemon, image: &str) {
    at_rest(one, image);
    assert!(!daemon.mountpoint(image).exists());
}

fn a_killed_owner_still_owns_what_it_mounted(rig: &Rig) {
    let [mut one, mut other] = two(rig);
    create(&one, "v", &json!({}));
    fs::write(one.mount("v", "a").join("file"), "data").unwrap();
    let device = devices(&one.file("v", "img")).remove(0).path;
    one.kill();
    for _ in 0..2 {
        let e = mount_error(&other, "v");
        assert!(e.contains("rbd/v is in use by plugin \"one\" on host "), "{e}");
        assert!(e.contains(&format!("the image is on {}: start it", device.display())), "{e}");
        assert!(remove_error(&other, "v").contains("plugin \"one\""));
        other.stop();
        other.start();
        assert!(mounts().contains(&one.mountpoint("v")), "not the other one's to take down");
    }
    one.start();
    let e = mount_error(&other, "v");
    assert!(e.contains("is in use by plugin \"one\"") && e.contains("unmount the volume there"), "{e}");
    one.unmount("v", "a");
    assert_eq!(fs::read_to_string(other.mount("v", "b").join("file")).unwrap(), "data");
    let e = mount_error(&one, "v");
    assert!(e.contains("is in use by plugin \"two\""), "{e}");
    other.unmount("v", "b");
    at_rest_shared(&one, &other, "v");
}

fn a_killed_owner_loses_what_is_mapped_no_more(rig: &Rig) {
    let [mut one, other] = two(rig);
    create(&one, "v", &json!({}));
    let at = one.mount("v", "a");
    fs::write(at.join("file"), "data").unwrap();
    one.kill();
    umount2(&at, nix::mount::MntFlags::empty()).unwrap();
    wait("the device to go", || devices(&one.file("v", "img")).is_empty());
    let elsewhere = other.mount("v", "b");
    assert_eq!(fs::read_to_string(elsewhere.join("file")).unwrap(), "data");
    one.start();
    assert_eq!(get(&one, "v")["Mountpoint"], json!(null));
    assert!(!at.exists());
    assert!(mounts().contains(&elsewhere), "what belongs to the other one stays");
    assert!(mount_error(&one, "v").contains("is in use by plugin \"two\""));
    other.unmount("v", "b");
    one.mount("v", "c");
    one.unmount("v", "c");
    at_rest_shared(&one, &other, "v");
}

/// The owner record that this plugin would write, changed.
fn owner(rig: &Rig, daemon: &Daemon, change: impl FnOnce(&mut Owner)) -> Owner {
    let mut owner = Owner {
        machine_id: rbd_docker_plugin::linux::boot::machine_id(),
        firmware_id: rbd_docker_plugin::linux::boot::firmware_id(),
        host: nix::unistd::gethostname().unwrap().into_string().unwrap(),
        boot_id: rbd_docker_plugin::linux::boot::boot_id().unwrap(),
        plugin: daemon.name.clone(),
        root: rig.path(&format!("{0}/mnt/{0}", daemon.name)),
        since: 1_700_000_000,
        client_addr: None,
        mount_ids: Vec::new(),
        unknown: Unknown::default(),
    };
    change(&mut owner);
    fs::write(daemon.file("v", "owner"), serde_json::to_vec(&owner).unwrap()).unwrap();
    owner
}

fn an_owner_on_another_host(rig: &Rig) {
    let mut daemon = plugin(rig, "here", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    owner(rig, &daemon, |owner| {
        owner.host = "elsewhere".to_owned();
        owner.boot_id = "another".to_owned();
    });
    let file = daemon.file("v", "owner");
    let before = fs::read(&file).unwrap();
    for _ in 0..2 {
        for e in [mount_error(&daemon, "v"), remove_error(&daemon, "v")] {
            assert!(
                e.contains("rbd/v is in use by plugin \"here\" on host elsewhere (since 2023-11-14T"),
                "{e}"
            );
            assert!(e.contains(&format!("if that host is gone for good, remove {}", file.display())), "{e}");
        }
        assert_eq!(devices(&daemon.file("v", "img")), []);
        daemon.stop();
        daemon.start();
        assert_eq!(fs::read(&file).unwrap(), before);
    }
    fs::remove_file(&file).unwrap();
    daemon.mount("v", "a");
    daemon.unmount("v", "a");
    remove(&daemon, "v");
    gone(&daemon, "v");
}

fn an_owner_record_that_is_not_understood(rig: &Rig) {
    let mut daemon = plugin(rig, "here", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let file = daemon.file("v", "owner");
    let newer = "install that version on this host";
    for (content, why, advice) in [
        (r#"{"v": 2, "owners": [{"host": "elsewhere"}]}"#, "is of version 2", newer),
        (
            r#"{"v": 1, "requires": ["seats"]}"#,
            "requires what this version of the plugin does not have: seats",
            newer,
        ),
        ("elsewhere", "is damaged", "remove it when no host has"),
    ] {
        fs::write(&file, content).unwrap();
        for _ in 0..2 {
            for e in [mount_error(&daemon, "v"), remove_error(&daemon, "v")] {
                assert!(e.contains(&format!("{} {why}", file.display())) && e.contains(advice), "{e}");
            }
            daemon.stop();
            daemon.start();
            assert_eq!(fs::read_to_string(&file).unwrap(), content, "whose it is is not known");
        }
        fs::remove_file(&file).unwrap();
        daemon.mount("v", "a");
        daemon.unmount("v", "a");
        at_rest(&daemon, "v");
    }
}

fn owners_that_are_provably_gone(rig: &Rig) {
    let daemon = plugin(rig, "gone", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let changes: [fn(&mut Owner); 4] = [
        |owner| owner.boot_id = "00000000-0000-0000-0000-000000000000".to_owned(),
        |owner| {
            owner.boot_id = "00000000-0000-0000-0000-000000000000".to_owned();
            owner.plugin = "another".to_owned();
        },
        |owner| owner.plugin = "another".to_owned(),
        |owner| owner.root = "/another".into(),
    ];
    for change in changes {
        let before = owner(rig, &daemon, change);
        daemon.mount("v", "a");
        let told = get(&daemon, "v")["Status"]["owner"].take();
        assert!(told.as_str().unwrap().starts_with("plugin \"gone\""), "after {before:?}: {told}");
        daemon.unmount("v", "a");
        at_rest(&daemon, "v");
    }
    // Of a writer that died before it mapped anything; of one that died before it cut off the end of an older record.
    let whole = owner(rig, &daemon, |owner| owner.plugin = "another".to_owned());
    let whole = serde_json::to_string(&whole).unwrap();
    for broken in
        ["", "{\"host\":", "\0\0\0", &format!("\0\0{}", &whole[2..]), &format!("{whole}7,\"mount_ids\":[]}}")]
    {
        fs::write(daemon.file("v", "owner"), broken).unwrap();
        daemon.mount("v", "a");
        daemon.unmount("v", "a");
        at_rest(&daemon, "v");
    }
}

/// A mount creates no file beside the image that was mounted before, and a free file is no trace of a volume.
fn the_owner_file_stays_with_its_image(rig: &Rig) {
    let mut daemon = plugin(rig, "kept", &["--size", "16"]);
    create(&daemon, "v", &json!({}));
    let file = || {
        let found = fs::metadata(daemon.file("v", "owner")).unwrap();
        (found.ino(), found.len())
    };
    let made = file();
    for _ in 0..3 {
        daemon.mount("v", "a");
        assert!(daemon.is_owned("v"));
        daemon.unmount("v", "a");
        at_rest(&daemon, "v");
        assert_eq!(file(), made);
    }
    daemon.stop();
    fs::write(daemon.log(), "").unwrap();
    daemon.start();
    assert!(!daemon.logs().contains("rbd/v"), "nothing is to be restored: {}", daemon.logs());
    remove(&daemon, "v");
    gone(&daemon, "v");
    assert!(!daemon.file("v", "owner").exists());
}
