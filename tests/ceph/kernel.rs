//! The backend on what stands for the kernel: whose mappings are whose, what is written down of them, what a look costs.

use std::sync::Arc;

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::rbd::admin::{Admin, Watched};
use rbd_docker_plugin::backend::{Backend, Device, ImageStore, Mapper, fault};
use rbd_docker_plugin::ceph::{Image, Swap};
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::owner::Owner;
use serde_json::{Value, json};

use crate::fake_kernel::{FakeKernel, Foreign};
use crate::hosts::{identity, options, spec, volume};
use crate::rig::{Lab, Ready, trial};

const OWNERS: &str = "rbd_docker_plugin.owners";
/// As earlier versions wrote it: it does not say which plugin it was.
const OLD_MARK: &str = "rbd-docker-plugin:0b5c7f6e-0000-4000-8000-000000000001";
const OTHER_FSID: &str = "11111111-2222-4333-8444-555555555555";
const STRANGER: &str = "192.168.9.9:0/999";

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("kernel::{name}"), ready, test);
    vec![
        t(
            "a_mapping_of_another_cluster_is_nobodys_business",
            a_mapping_of_another_cluster_is_nobodys_business,
        ),
        t(
            "without_the_cluster_a_name_alone_is_not_believed",
            without_the_cluster_a_name_alone_is_not_believed,
        ),
        t("a_recorded_client_that_lives_stays_on_record", a_recorded_client_that_lives_stays_on_record),
        t("another_plugin_of_this_host_is_respected", another_plugin_of_this_host_is_respected),
        t(
            "a_plugin_of_the_same_name_is_told_by_its_mount_root",
            a_plugin_of_the_same_name_is_told_by_its_mount_root,
        ),
        t("what_is_released_during_a_look_stays_released", what_is_released_during_a_look_stays_released),
        t("a_mapping_of_a_renamed_image_is_found", a_mapping_of_a_renamed_image_is_found),
        t("every_form_of_fence_is_seen", every_form_of_fence_is_seen),
        t(
            "two_hundred_volumes_are_looked_at_with_one_reading",
            two_hundred_volumes_are_looked_at_with_one_reading,
        ),
    ]
}

/// A plugin with a kernel of its own.
struct World {
    kernel: FakeKernel,
    backend: RbdBackend,
    _dir: tempfile::TempDir,
}

fn world(lab: &Lab, host: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    let kernel = FakeKernel::new(dir.path());
    kernel.knows(&lab.conf);
    let backend =
        RbdBackend::open_on(kernel.kernel(), &options(lab), identity(host, &format!("boot of {host}")));
    World { kernel, backend: backend.unwrap(), _dir: dir }
}

impl World {
    /// A volume that is claimed and mapped.
    fn mapped(&self, lab: &Lab, image: &str) -> (ImageSpec, Device) {
        let spec = spec(lab, image);
        volume(&self.backend, &spec);
        self.backend.claim(&spec).unwrap();
        let device = self.backend.map(&spec);
        (spec, device.unwrap_or_else(|e| panic!("{e}\n{:?}", self.kernel.writes())))
    }

    fn renamed(&self, spec: &ImageSpec) -> Option<(u32, u32)> {
        self.backend.renamed_mapping(spec).unwrap().map(|device| device.number)
    }

    fn look(&self, spec: &ImageSpec) -> (Vec<String>, bool) {
        let look = self.backend.look(std::slice::from_ref(spec)).unwrap();
        (look.lost.into_iter().map(|(_, why)| why).collect(), !look.amiss.is_empty())
    }
}

fn id_of(lab: &Lab, image: &str) -> String {
    Image::open_read_only(&lab.io, image).unwrap().id().unwrap()
}

/// A device of this image in this cluster, but for what a test changes.
fn device(lab: &Lab, image: &str) -> Foreign {
    Foreign {
        fsid: lab.io.cluster().fsid().to_owned(),
        pool: lab.pool.clone(),
        pool_id: lab.io.pool_id(),
        namespace: String::new(),
        image: image.to_owned(),
        image_id: id_of(lab, image),
        client_addr: STRANGER.to_owned(),
        mark: OLD_MARK.to_owned(),
    }
}

fn recorded(lab: &Lab, image: &str) -> Option<Value> {
    let key = format!("image.{}", id_of(lab, image));
    let found = lab.io.omap_get(OWNERS, &[&key]).unwrap();
    found.get(&key).map(|raw| serde_json::from_slice(raw).unwrap())
}

fn address(lab: &Lab, image: &str) -> Option<String> {
    Some(recorded(lab, image)?["client_addr"].as_str()?.to_owned())
}

fn a_mapping_of_another_cluster_is_nobodys_business(lab: &Lab) {
    let world = world(lab, "two-clusters");
    let spec = spec(lab, "twice");
    volume(&world.backend, &spec);
    // It was there first, so it has the lower number; all names are the same, and the ids by chance as well.
    let other = world.kernel.map(&Foreign { fsid: OTHER_FSID.to_owned(), ..device(lab, "twice") });
    world.backend.claim(&spec).unwrap();
    assert!(world.backend.mapping(&spec).unwrap().is_none(), "of ours there is no mapping");
    assert_eq!(world.backend.pulse().unwrap().devices, 0);
    let device = world.backend.map(&spec).unwrap();
    let own = world.kernel.mappings().into_iter().find(|mapping| mapping.id != other).unwrap().client_addr;
    for _ in 0..2 {
        assert_eq!(address(lab, "twice").as_deref(), Some(own.as_str()), "the client that a fence must hit");
        assert_eq!(world.look(&spec), (Vec::new(), false));
        assert_eq!(world.backend.mend(&spec).unwrap(), None);
    }
    assert_eq!(world.backend.pulse().unwrap().devices, 1);
    let watchers = Image::open_read_only(&lab.io, "twice").unwrap().watchers().unwrap();
    assert!(watchers.iter().any(|watcher| watcher.address == own), "the record names who watches");
    world.backend.unmap(&spec, device).unwrap();
    assert_eq!(world.kernel.mappings().iter().map(|mapping| mapping.id).collect::<Vec<_>>(), [other]);
    world.backend.release(&spec).unwrap();
    assert_eq!(recorded(lab, "twice"), None);
}

fn without_the_cluster_a_name_alone_is_not_believed(lab: &Lab) {
    let world = world(lab, "cut-off");
    let (spec, device) = world.mapped(lab, "cut-off");
    let other = Foreign { fsid: OTHER_FSID.to_owned(), ..self::device(lab, "cut-off") };
    world.kernel.map(&other);
    // A plugin that begins while the cluster is away.
    let nowhere = rbd_docker_plugin::config::Ceph {
        conf: world._dir.path().join("ceph.conf"),
        timeout: std::time::Duration::from_secs(1),
        ..options(lab)
    };
    std::fs::write(&nowhere.conf, "[global]\nmon host = [v2:127.0.0.1:1,v1:127.0.0.1:2]\n").unwrap();
    let own = identity("cut-off", "boot of cut-off");
    let late = RbdBackend::open_on(world.kernel.kernel(), &nowhere, own).unwrap();
    let e = late.mapping(&spec).expect_err("two may be meant");
    assert_eq!(e.kind, ErrorKind::Unreachable, "{e}");
    world.backend.unmap(&spec, device).unwrap();
    world.backend.release(&spec).unwrap();
}

fn a_recorded_client_that_lives_stays_on_record(lab: &Lab) {
    let world = world(lab, "double");
    let spec = spec(lab, "double");
    volume(&world.backend, &spec);
    // A second mapping of the same image, with the mark of an earlier version and a lower number.
    world.backend.claim(&spec).unwrap();
    let device = world.backend.map(&spec).unwrap();
    let own = address(lab, "double").unwrap();
    let second = world.kernel.map(&self::device(lab, "double"));
    for _ in 0..2 {
        world.backend.mend(&spec).unwrap();
        assert_eq!(address(lab, "double").as_deref(), Some(own.as_str()));
    }
    // Once its device is gone, the other one is what can write.
    world.backend.unmap(&spec, device).unwrap();
    assert!(world.look(&spec).1, "the record is amiss");
    world.backend.mend(&spec).unwrap();
    assert_eq!(address(lab, "double").as_deref(), Some(STRANGER));
    world.kernel.unmap(second);
    world.backend.release(&spec).unwrap();
}

fn another_plugin_of_this_host_is_respected(lab: &Lab) {
    let world = world(lab, "shared-host");
    let spec = spec(lab, "shared-host");
    volume(&world.backend, &spec);
    let mark = "rbd-docker-plugin:boot_of_shared-host/rbd2/0b5c7f6e-0000-4000-8000-000000000001";
    let id = world.kernel.map(&Foreign { mark: mark.to_owned(), ..device(lab, "shared-host") });
    let e = world.backend.claim(&spec).unwrap_err();
    assert!(e.kind == ErrorKind::InUse && e.to_string().contains("by the plugin \"rbd2\""), "{e}");
    world.kernel.unmap(id);
    world.backend.claim(&spec).unwrap();
    world.backend.release(&spec).unwrap();
}

/// A managed plugin and one of the host's may have one name; their mount roots differ.
fn a_plugin_of_the_same_name_is_told_by_its_mount_root(lab: &Lab) {
    let world = world(lab, "namesakes");
    let (spec, device) = world.mapped(lab, "namesakes");
    let namesake = Owner {
        root: "/var/lib/docker/plugins/p1/propagated-mount/rbd".into(),
        ..identity("namesakes", "boot of namesakes")
    };
    let other = RbdBackend::open_on(world.kernel.kernel(), &options(lab), namesake).unwrap();
    let devices = |backend: &RbdBackend| backend.pulse().unwrap().devices;
    assert_eq!((devices(&world.backend), devices(&other)), (1, 0));
    let line = world.kernel.writes().into_iter().find(|line| line.contains("namesakes")).unwrap();
    let mark = line.trim_end().rsplit(' ').next().unwrap().to_owned();
    world.backend.unmap(&spec, device).unwrap();
    world.backend.release(&spec).unwrap();
    // Without an owner record, the mark alone says whose mapping it is.
    let without_root = "rbd-docker-plugin:boot_of_namesakes/rbd/0b5c7f6e-0000-4000-8000-000000000001";
    let id = world.kernel.map(&Foreign { mark, ..self::device(lab, "namesakes") });
    let e = other.claim(&spec).unwrap_err();
    let told = "by another plugin of the name \"rbd\" on this host";
    assert!(e.kind == ErrorKind::InUse && e.to_string().contains(told), "{e}");
    world.backend.claim(&spec).unwrap();
    world.kernel.unmap(id);
    world.backend.release(&spec).unwrap();
    // An earlier version has not written the root down: then it may be anyone's of that name.
    let id = world.kernel.map(&Foreign { mark: without_root.to_owned(), ..self::device(lab, "namesakes") });
    assert_eq!((devices(&world.backend), devices(&other)), (1, 1));
    world.kernel.unmap(id);
}

fn what_is_released_during_a_look_stays_released(lab: &Lab) {
    let world = Arc::new(world(lab, "released"));
    let (spec, device) = world.mapped(lab, "released");
    let (inside, of) = (Arc::clone(&world), spec.clone());
    let device = std::sync::Mutex::new(Some(device));
    // An Unmount ends between the two readings of a look.
    let unmount = move || {
        if let Some(device) = device.lock().unwrap().take() {
            inside.backend.unmap(&of, device).unwrap();
            inside.backend.release(&of).unwrap();
        }
    };
    fault::at("look", Some(Arc::new(unmount)));
    let look = world.backend.look(std::slice::from_ref(&spec));
    fault::at("look", None);
    assert_eq!(look.unwrap().lost, []);
    assert_eq!(recorded(lab, "released"), None, "nobody owns it any more");
    // Left behind by whatever cause, it is found.
    world.backend.claim(&spec).unwrap();
    assert!(world.backend.leftovers().unwrap().contains(&spec));
    world.backend.release(&spec).unwrap();
    assert!(!world.backend.leftovers().unwrap().contains(&spec));
}

fn every_form_of_fence_is_seen(lab: &Lab) {
    for (at, (client, add, entry)) in [
        ("10.9.1.1:0/5", &["osd", "blocklist", "add", "10.9.1.1:0/5"][..], None),
        ("10.9.2.1:0/5", &["osd", "blocklist", "add", "10.9.2.1"], Some("10.9.2.1:0/0")),
        ("10.9.3.1:0/5", &["osd", "blocklist", "range", "add", "10.9.3.0/24"], Some("10.9.3.0/24")),
        ("[fd00:9::1]:0/5", &["osd", "blocklist", "add", "fd00:9::1"], Some("[fd00:9::1]:0/0")),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("fenced-{at}");
        let world = world(lab, "fenced");
        let spec = spec(lab, &name);
        volume(&world.backend, &spec);
        world.backend.claim(&spec).unwrap();
        let id = world.kernel.map(&Foreign { client_addr: client.to_owned(), ..device(lab, &name) });
        world.backend.mend(&spec).unwrap();
        assert_eq!(address(lab, &name).as_deref(), Some(client));
        let mut line = vec!["ceph"];
        line.extend(add);
        line.push("600");
        lab.run(&line);
        let (lost, _) = world.look(&spec);
        assert!(lost[0].contains(client) && entry.is_none_or(|entry| lost[0].contains(entry)), "{lost:?}");
        let lock = Admin::connect(&options(lab)).unwrap().locks(Watched::Asked).unwrap().found;
        let lock = lock.iter().find(|lock| lock.image == spec).unwrap();
        assert_eq!(lock.fenced_by.as_deref(), Some(entry.unwrap_or(client)), "lock ls says it");
        world.kernel.unmap(id);
        world.backend.release(&spec).unwrap();
    }
}

fn two_hundred_volumes_are_looked_at_with_one_reading(lab: &Lab) {
    const MANY: usize = 200;
    let world = world(lab, "many");
    let owner = serde_json::to_value(identity("many", "boot of many")).unwrap();
    let mut specs = Vec::new();
    for at in 0..MANY {
        let (image, id, client) = (format!("many-{at}"), format!("fa{at:08x}"), format!("10.9.4.1:0/{at}"));
        let mut record = owner.clone();
        let spec = spec(lab, &image);
        record["client_addr"] = json!(client);
        record["image"] = serde_json::to_value(&spec).unwrap();
        let (key, raw) = (format!("image.{id}"), serde_json::to_vec(&record).unwrap());
        lab.io.omap_swap(OWNERS, &[Swap { key: &key, expected: None, new: Some(&raw) }]).unwrap();
        world.kernel.map(&Foreign {
            image,
            image_id: id,
            client_addr: client,
            ..Foreign {
                fsid: lab.io.cluster().fsid().to_owned(),
                pool: lab.pool.clone(),
                pool_id: lab.io.pool_id(),
                namespace: String::new(),
                image: String::new(),
                image_id: String::new(),
                client_addr: String::new(),
                mark: OLD_MARK.to_owned(),
            }
        });
        specs.push(spec);
    }
    let backend =
        RbdBackend::open_on(world.kernel.kernel(), &options(lab), identity("many", "boot of many")).unwrap();
    assert!(backend.owned().unwrap().specs.len() >= MANY);
    let kernel = world.kernel.kernel();
    drop(kernel);
    backend.look(&specs).unwrap();
    let (reads, asked) = (backend.kernel_reads(), lab.requests());
    let look = backend.look(&specs).unwrap();
    let (reads, asked) = (backend.kernel_reads() - reads, lab.requests() - asked);
    println!("a look at {MANY} volumes: {reads} files of sysfs, at most {asked} requests to OSDs");
    assert_eq!(look.lost, []);
    assert!(reads <= 2 * MANY as u64, "{reads} files");
    assert!(asked <= 20, "{asked} requests, with those of all other clients");
    // How many of them are ours is asked even more often.
    let before = backend.kernel_reads();
    backend.pulse().unwrap();
    assert_eq!(backend.kernel_reads() - before, 0, "files");
    // What one Mount asks of the kernel does not grow with what is mapped.
    let before = backend.kernel_reads();
    assert!(backend.mapping(&specs[MANY / 2]).is_ok());
    let one = backend.kernel_reads() - before;
    println!("a look-up of one mapping among {MANY}: {one} files");
    for at in 0..MANY {
        let key = format!("image.fa{at:08x}");
        let found = lab.io.omap_get(OWNERS, &[&key]).unwrap();
        lab.io.omap_swap(OWNERS, &[Swap { key: &key, expected: Some(&found[&key]), new: None }]).unwrap();
    }
}

fn a_mapping_of_a_renamed_image_is_found(lab: &Lab) {
    let one = world(lab, "h1");
    let (spec, device) = one.mapped(lab, "renamed-under");
    assert_eq!(one.renamed(&spec), None, "it has its name still");
    lab.io.rename_image("renamed-under", "renamed-to").unwrap();
    assert_eq!(one.renamed(&spec), Some(device.number), "nothing has that name");
    lab.run(&["rbd", "create", "--size", "16M", &lab.spec("renamed-under")]);
    assert_eq!(one.renamed(&spec), Some(device.number), "another image has it");
    let refused = one.backend.claim(&spec).unwrap_err();
    assert!(refused.kind == ErrorKind::Busy && refused.message.contains("another image by now"), "{refused}");
    one.backend.unmap(&spec, device).unwrap();
    assert_eq!(one.renamed(&spec), None);
    one.backend.release(&spec).unwrap();
}
