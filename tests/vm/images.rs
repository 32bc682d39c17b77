//! Images that others made, or that are not like the others: what becomes of them as volumes.

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::host::Host;
use crate::plugin::Plugin;
use crate::rig::{Lab, test};
use crate::volumes::start;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test("images_locked_by_the_old_plugin", old_lock),
        test("images_made_by_hand", by_hand),
        test("images_in_other_places", elsewhere),
        test("images_of_every_layout_and_filesystem", layouts),
        test("images_are_snapshot_and_grown_while_mounted", while_mounted),
        test("images_are_renamed_on_removal", renamed),
        test("images_are_clones_and_copies_beside_their_origin", copies),
    ]
}

/// Mounts, lets a shell command look at `$m`, unmounts; what it wrote to stdout.
#[track_caller]
pub(crate) fn used(host: &Host, plugin: &Plugin<'_>, volume: &str, script: &str) -> String {
    let mountpoint = plugin.mount(volume, "u");
    let said = host.ok(&format!("m={}\n{script}", mountpoint.display()));
    plugin.unmount(volume, "u");
    said
}

/// An image with a filesystem on it and the word `theirs` in a file.
fn with_data(lab: &Lab, image: &str, kind: &str) {
    lab.cluster.rbd(&["create", "--size", "320", "--image-feature", "layering", image]);
    lab.alpha().ok(&format!(
        "d=$(rbd map -o noshare {image}) && mkfs.{kind} -q $d && mount $d /mnt && echo theirs >/mnt/file && umount /mnt && rbd unmap $d"
    ));
}

/// Without the feature exclusive-lock there is librbd's lock, as rbd-docker-plugin 2.0.1 takes it: its cookie is the host's name.
fn old_lock(lab: &Lab) {
    let mut plugin = start(lab, lab.alpha(), &["--owner-wait", "0"]);
    with_data(lab, "old", "ext4");
    lab.cluster.rbd(&["lock", "add", "old", "gamma"]);
    let refused = plugin.error("Mount", &json!({"Name": "old", "ID": "a"}));
    for part in ["locked by client.", "\"gamma\"", "rbd lock remove rbd/old"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let refused = plugin.error("Remove", &json!({"Name": "old"}));
    assert!(refused.contains("\"gamma\""), "{refused}");
    let locker = |of: &str| -> Value {
        let listed: Value =
            serde_json::from_str(&lab.cluster.rbd(&["lock", "ls", "--format", "json", of])).unwrap();
        listed[0].clone()
    };
    let theirs = locker("old");
    assert_eq!(theirs["id"], "gamma", "{theirs}");
    lab.cluster.rbd(&["lock", "rm", "old", "gamma", theirs["locker"].as_str().unwrap()]);

    // Left by the old plugin on this host, which this one replaces.
    lab.cluster.rbd(&["lock", "add", "old", "alpha"]);
    let theirs = locker("old");
    let mountpoint = plugin.mount("old", "a");
    assert_eq!(lab.alpha().ok(&format!("cat {}/file", mountpoint.display())), "theirs");
    let ours = locker("old");
    assert_eq!(ours["id"], "alpha", "the old plugin on other hosts must see that it is in use: {ours}");
    assert_ne!(ours["locker"], theirs["locker"]);
    plugin.unmount("old", "a");
    assert_eq!(locker("old"), Value::Null);
    plugin.ok("Remove", &json!({"Name": "old"}));
    plugin.stop();
}

fn by_hand(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &[]);
    with_data(lab, "theirs", "xfs");
    lab.cluster.rbd(&["create", "--size", "64", "blank"]);
    let listed = plugin.ok("List", &json!({})).to_string();
    assert!(listed.contains("\"theirs\"") && listed.contains("\"blank\""), "{listed}");
    plugin.ok("Create", &json!({"Name": "theirs"}));
    assert_eq!(used(host, &plugin, "theirs", "cat $m/file; stat -f -c %T $m"), "theirs\nxfs");

    plugin.restart_with(&["--create=false"]);
    let refused = plugin.error("Mount", &json!({"Name": "blank", "ID": "a"}));
    assert!(refused.contains("--create"), "{refused}");
    let refused = plugin.error("Create", &json!({"Name": "none"}));
    assert!(refused.contains("--create"), "{refused}");
    let written = |image: &str| lab.cluster.rbd(&["diff", image]);
    assert_eq!(written("blank"), "", "a refused image was written to");
    plugin.restart_with(&["--create=true"]);
    assert_eq!(used(host, &plugin, "blank", "stat -f -c %T $m"), "ext2/ext3");

    // Something is on it that nobody knows.
    lab.cluster.rbd(&["create", "--size", "64", "unknown"]);
    host.ok("d=$(rbd map -o noshare unknown) && echo something | dd of=$d bs=1M seek=7 conv=fsync status=none && rbd unmap $d");
    let refused = plugin.error("Mount", &json!({"Name": "unknown", "ID": "a"}));
    assert!(refused.contains("not formatted") || refused.contains("format"), "{refused}");
    let kept = host.ok("d=$(rbd map -o noshare unknown) && dd if=$d bs=1M skip=7 count=1 status=none | head -c 9; rbd unmap $d");
    assert_eq!(kept, "something");
    for image in ["theirs", "blank", "unknown"] {
        plugin.ok("Remove", &json!({"Name": image}));
    }
    plugin.stop();
}

fn elsewhere(lab: &Lab) {
    let host = lab.alpha();
    lab.cluster.rbd(&["namespace", "create", "rbd/tenant"]);
    lab.cluster.ceph(&["osd", "pool", "create", "second", "8"]);
    lab.cluster.rbd(&["pool", "init", "second"]);
    let mut plugin = start(lab, host, &[]);
    plugin.ok("Create", &json!({"Name": "inside", "Opts": {"namespace": "tenant"}}));
    plugin.ok("Create", &json!({"Name": "bare", "Opts": {"pool": "second"}}));
    assert_eq!(lab.cluster.rbd(&["ls", "rbd/tenant"]), "inside");
    assert_eq!(lab.cluster.rbd(&["ls", "second"]), "bare");
    assert_eq!(lab.cluster.rbd(&["ls", "rbd"]), "");
    let listed = plugin.ok("List", &json!({}))["Volumes"].clone();
    let mut names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|volume| volume["Name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["bare", "inside"]);
    for volume in ["inside", "bare"] {
        used(host, &plugin, volume, "echo data >$m/file");
        // Another life, another name cache.
        plugin.kill();
        plugin.start();
        assert_eq!(used(host, &plugin, volume, "cat $m/file"), "data", "{volume}");
    }
    let missing = plugin.error("Create", &json!({"Name": "x", "Opts": {"pool": "nowhere"}}));
    assert!(missing.contains("nowhere") && missing.contains("does not exist"), "{missing}");
    let missing = plugin.error("Create", &json!({"Name": "x", "Opts": {"namespace": "nobody"}}));
    assert!(missing.contains("has no namespace nobody"), "{missing}");
    for volume in ["inside", "bare"] {
        plugin.ok("Remove", &json!({"Name": volume}));
    }
    plugin.stop();
    lab.cluster.rbd(&["namespace", "rm", "rbd/tenant"]);
    delete_pool(lab, "second");
}

pub(crate) fn delete_pool(lab: &Lab, pool: &str) {
    lab.cluster.ceph(&["osd", "pool", "delete", pool, pool, "--yes-i-really-really-mean-it"]);
}

fn layouts(lab: &Lab) {
    let host = lab.alpha();
    lab.cluster.ceph(&["osd", "pool", "create", "data", "8"]);
    lab.cluster.ceph(&["osd", "pool", "application", "enable", "data", "rbd"]);
    let mut plugin = start(lab, host, &[]);
    let striped = json!({
        "object-size": "1M", "stripe-unit": "64K", "stripe-count": "4", "features": "layering,exclusive-lock",
        "data-pool": "data", "map-options": "queue_depth=32", "fstype": "btrfs", "size": "256M",
        "mount-options": "noatime"
    });
    plugin.ok("Create", &json!({"Name": "striped", "Opts": striped}));
    let info: Value =
        serde_json::from_str(&lab.cluster.rbd(&["info", "--format", "json", "striped"])).unwrap();
    assert_eq!(
        (&info["object_size"], &info["stripe_unit"], &info["stripe_count"], &info["data_pool"]),
        (&json!(1 << 20), &json!(65536), &json!(4), &json!("data")),
        "{info}"
    );
    let features = &info["features"];
    for (feature, wanted) in [("exclusive-lock", true), ("striping", true), ("object-map", false)] {
        let has = features.as_array().unwrap().iter().any(|has| has == feature);
        assert_eq!(has, wanted, "{feature}: {features}");
    }
    let said = used(
        host,
        &plugin,
        "striped",
        "dd if=/dev/urandom of=$m/file bs=1M count=20 status=none; md5sum <$m/file >$m/sum
         stat -f -c %T $m; grep -c \"$m btrfs.*noatime\" /proc/mounts; cat /sys/bus/rbd/devices/0/config_info",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["btrfs", "1"], "{said}");
    assert!(lines[2].contains("queue_depth=32"), "{said}");
    assert_eq!(used(host, &plugin, "striped", "md5sum <$m/file | cmp - $m/sum && echo same"), "same");
    plugin.ok("Remove", &json!({"Name": "striped"}));

    let xfs = json!({"fstype": "xfs", "size": "320M", "mode": "0750", "uid": "7", "gid": "8"});
    plugin.ok("Create", &json!({"Name": "xfs", "Opts": xfs}));
    assert_eq!(used(host, &plugin, "xfs", "stat -f -c %T $m; stat -c '%a %u %g' $m"), "xfs\n750 7 8");
    plugin.ok("Remove", &json!({"Name": "xfs"}));

    for (options, part) in [
        (json!({"data-pool": "nowhere"}), "nowhere"),
        (json!({"features": "journaling,exclusive-lock"}), "journaling"),
        (json!({"object-size": "3M"}), "power of two"),
    ] {
        let refused = plugin.error("Create", &json!({"Name": "wrong", "Opts": options}));
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(lab.cluster.rbd(&["ls"]), "", "a refused Create left something");
    plugin.stop();
    delete_pool(lab, "data");
}

fn while_mounted(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &[]);
    plugin.ok("Create", &json!({"Name": "live"}));
    let mountpoint = plugin.mount("live", "a").display().to_string();
    let status = &plugin.ok("Get", &json!({"Name": "live"}))["Volume"]["Status"];
    assert_eq!((&status["device"], &status["health"]), (&json!("/dev/rbd0"), &json!("ok")), "{status}");
    assert!(status["owner"].as_str().unwrap().contains("alpha"), "{status}");
    host.ok(&format!("echo before >{mountpoint}/file && sync"));
    lab.cluster.rbd(&["snap", "create", "--no-progress", "live@then"]);
    lab.cluster.rbd(&["resize", "--no-progress", "--size", "96", "live"]);
    host.ok(&format!("echo after >{mountpoint}/file && sync"));
    let sectors: u64 = host.ok("cat /sys/class/block/rbd0/size").parse().unwrap();
    assert_eq!(sectors, 96 << 11, "the mapped device has grown");
    host.ok(&format!("resize2fs /dev/rbd0 && test $(df -m --output=size {mountpoint} | tail -1) -gt 70"));
    plugin.unmount("live", "a");
    assert_eq!(used(host, &plugin, "live", "cat $m/file"), "after");
    let then = host.ok(
        "d=$(rbd map -o noshare --read-only live@then) && mount -o ro,noload $d /mnt && cat /mnt/file; umount /mnt; rbd unmap $d",
    );
    assert_eq!(then, "before");
    let refused = plugin.error("Remove", &json!({"Name": "live"}));
    assert!(refused.contains("then") && refused.contains("snap purge"), "{refused}");
    lab.cluster.rbd(&["snap", "purge", "--no-progress", "live"]);
    plugin.ok("Remove", &json!({"Name": "live"}));
    plugin.stop();
}

fn renamed(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &["--remove", "rename"]);
    for text in ["first", "second"] {
        plugin.ok("Create", &json!({"Name": "kept", "Opts": {"size": "32M"}}));
        used(host, &plugin, "kept", &format!("echo {text} >$m/file"));
        plugin.ok("Remove", &json!({"Name": "kept"}));
        plugin.error("Get", &json!({"Name": "kept"}));
    }
    let images = lab.cluster.rbd(&["ls"]);
    let names: Vec<&str> = images.lines().collect();
    assert!(names.len() == 2 && names[0] == "zz_kept" && names[1].starts_with("zz_kept_"), "{names:?}");
    for (image, text) in names.iter().zip(["first", "second"]) {
        assert_eq!(used(host, &plugin, image, "cat $m/file"), text, "a renamed image is a volume");
        lab.cluster.rbd(&["rm", "--no-progress", image]);
    }
    plugin.stop();
}

/// XFS and btrfs are not mounted twice with one UUID, except XFS where the cluster proves that it is another image with a copy of it.
fn copies(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &[]);
    let rbd = |args: &[&str]| lab.cluster.rbd(args);
    let clone = |of: &str, image: &str| rbd(&["clone", "--rbd-default-clone-format", "2", of, image]);
    for (origin, fstype, size) in [("xfs", "xfs", "320M"), ("btrfs", "btrfs", "256M")] {
        plugin.ok("Create", &json!({"Name": origin, "Opts": {"fstype": fstype, "size": size}}));
        let mountpoint = plugin.mount(origin, "a");
        host.ok(&format!("echo kept >{}/file && sync", mountpoint.display()));
        rbd(&["snap", "create", "--no-progress", &format!("{origin}@then")]);
        clone(&format!("{origin}@then"), &format!("{origin}-clone"));
    }
    let image = lab.folder().join("xfs.img").display().to_string();
    rbd(&["export", "--no-progress", "xfs@then", &image]);
    rbd(&["import", "--no-progress", &image, "xfs-copy"]);
    std::fs::remove_file(&image).unwrap();
    rbd(&["snap", "create", "--no-progress", "xfs-clone@then"]);
    clone("xfs-clone@then", "xfs-flat");
    rbd(&["flatten", "--no-progress", "xfs-flat"]);

    let origin = plugin.mountpoint("xfs").display().to_string();
    let seen = "cat $m/file; echo other >$m/file; sync; grep -c \"$m xfs.*nouuid\" /proc/mounts";
    assert_eq!(used(host, &plugin, "xfs-clone", seen), "kept\n1");
    assert_eq!(used(host, &plugin, "xfs-clone", "cat $m/file"), "other");
    let still = format!(
        "echo 3 >/proc/sys/vm/drop_caches; cat {origin}/file; grep -c '{origin} xfs.*nouuid' /proc/mounts"
    );
    assert_eq!(host.run(&still).stdout, "kept\n0\n");
    let unknown = "this cluster does not know the two as a clone and its origin";
    for (volume, of, why) in [
        ("xfs-copy", "xfs", unknown),
        // Flattened, it has no parent any more.
        ("xfs-flat", "xfs", unknown),
        ("btrfs-clone", "btrfs", "`btrfstune -u`"),
    ] {
        let refused = plugin.error("Mount", &json!({"Name": volume, "ID": "b"}));
        let twin = format!(
            "rbd/{of}, mounted at {}, has the same UUID as rbd/{volume}",
            plugin.mountpoint(of).display()
        );
        for part in [twin.as_str(), "unmount the other first", why] {
            assert!(refused.contains(part) && !refused.contains("repair"), "{part}: {refused}");
        }
    }
    assert_eq!(host.ok("ls /sys/bus/rbd/devices | wc -l"), "2", "what was refused is mapped");
    plugin.unmount("xfs", "a");
    plugin.unmount("btrfs", "a");
    for volume in ["xfs-copy", "xfs-flat", "btrfs-clone"] {
        assert_eq!(used(host, &plugin, volume, "cat $m/file"), "kept", "{volume} can be mounted alone");
    }
    rbd(&["snap", "purge", "--no-progress", "xfs-clone"]);
    for volume in ["xfs-flat", "xfs-copy", "xfs-clone", "btrfs-clone", "xfs", "btrfs"] {
        if ["xfs", "btrfs"].contains(&volume) {
            rbd(&["snap", "purge", "--no-progress", volume]);
        }
        plugin.ok("Remove", &json!({"Name": volume}));
    }
    plugin.stop();
}
