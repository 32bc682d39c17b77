//! What features new images get on kernels that lack some, and what is said of images that have such.

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::rbd::RbdBackend;
use rbd_docker_plugin::backend::{ImageStore, Mapper};
use rbd_docker_plugin::ceph::features::{
    DATA_POOL, DEEP_FLATTEN, EXCLUSIVE_LOCK, FAST_DIFF, JOURNALING, LAYERING, OBJECT_MAP, OPERATIONS,
    STRIPING, names,
};
use rbd_docker_plugin::ceph::{Image, IoCtx};
use rbd_docker_plugin::config;
use rbd_docker_plugin::model::create_options::Options;
use rbd_docker_plugin::model::error::{DriverError, Result};
use rbd_docker_plugin::model::record::{Record, Stage};
use rbd_docker_plugin::model::size::Size;

use crate::fake_kernel::FakeKernel;
use crate::hosts::{identity, options, record, spec};
use crate::rig::{Lab, Ready, fresh, trial};

/// More than any kernel knows today: journaling, too.
const ALL: u64 = 0x1ff;
const SINGLE: [u64; 9] = [
    LAYERING,
    STRIPING,
    EXCLUSIVE_LOCK,
    OBJECT_MAP,
    FAST_DIFF,
    DEEP_FLATTEN,
    JOURNALING,
    DATA_POOL,
    OPERATIONS,
];

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    let t = |name: &str, test: fn(&Lab)| trial(&format!("features::{name}"), ready, test);
    vec![
        t("what_create_makes_this_kernel_can_map", what_create_makes_this_kernel_can_map),
        t("the_settings_of_pool_and_cluster_count", the_settings_of_pool_and_cluster_count),
        t("what_was_named_and_cannot_be_had_is_refused", what_was_named_and_cannot_be_had_is_refused),
        t("data_goes_to_no_other_pool_in_silence", data_goes_to_no_other_pool_in_silence),
        t("what_lacks_is_named_with_the_way_out", what_lacks_is_named_with_the_way_out),
    ]
}

/// A plugin whose kernel can be told what it knows.
struct World {
    kernel: FakeKernel,
    backend: RbdBackend,
    _dir: tempfile::TempDir,
}

fn world(lab: &Lab, settings: &config::Ceph) -> World {
    let dir = tempfile::tempdir().unwrap();
    let kernel = FakeKernel::new(dir.path());
    kernel.knows(&lab.conf);
    let backend = RbdBackend::open_on(kernel.kernel(), settings, identity("features", "boot")).unwrap();
    World { kernel, backend, _dir: dir }
}

/// The features as librbd reports them.
fn features(io: &IoCtx, name: &str) -> u64 {
    Image::open_read_only(io, name).unwrap().features().unwrap()
}

fn told(bits: u64) -> String {
    names(bits).join(",")
}

/// Every feature alone is missing, each pair of those that depend on each other, and what kernels have had: Linux 4.11, 4.16, 5.1 and 5.3.
fn kernels() -> Vec<u64> {
    let mut kernels = vec![ALL, 0, LAYERING, 0x87, 0x187, 0x1a7, 0x1bf];
    kernels.extend(SINGLE.map(|feature| ALL & !feature));
    for (at, one) in [EXCLUSIVE_LOCK, OBJECT_MAP, FAST_DIFF, JOURNALING].into_iter().enumerate() {
        let others = [EXCLUSIVE_LOCK, OBJECT_MAP, FAST_DIFF, JOURNALING];
        kernels.extend(others[at + 1..].iter().map(|other| ALL & !one & !other));
    }
    kernels
}

/// The most of `wanted` that a kernel can map, found by trying every choice that an image can have.
fn most(wanted: u64, kernel: u64) -> u64 {
    let has = |bits: u64, feature| bits & feature != 0;
    let possible = |bits: &u64| {
        bits & !(wanted & kernel) == 0
            && (!has(*bits, OBJECT_MAP) || has(*bits, EXCLUSIVE_LOCK))
            && (!has(*bits, JOURNALING) || has(*bits, EXCLUSIVE_LOCK))
            && has(*bits, OBJECT_MAP) == has(*bits, FAST_DIFF)
    };
    (0..=ALL).filter(possible).max_by_key(|bits| bits.count_ones()).unwrap()
}

impl World {
    /// Makes an image with these options.
    fn make(&self, lab: &Lab, name: &str, words: &[(&str, &str)]) -> Result<()> {
        let given = words.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let options = Options::parse(&given.collect()).unwrap().image;
        let spec = spec(lab, name);
        self.backend.check_options(&options)?;
        self.backend.claim(&spec)?;
        let made = self.backend.create(&spec, Size::mib(8), &Record { options, ..record(Stage::Ready) });
        if made.is_err() {
            self.backend.release(&spec)?;
        }
        made
    }

    /// Maps what was made, and removes it.
    fn map_and_remove(&self, lab: &Lab, name: &str) -> u64 {
        let spec = spec(lab, name);
        let has = features(&lab.io, name);
        let device = self.backend.map(&spec).unwrap_or_else(|e| panic!("made and not mapped: {e}"));
        self.backend.unmap(&spec, device).unwrap();
        self.backend.remove(&spec).unwrap();
        self.backend.release(&spec).unwrap();
        has
    }

    /// What Create makes on each kernel, compared with what `rbd create` makes.
    fn compare(&self, lab: &Lab, kernels: &[u64], what: &str) {
        let theirs = fresh("theirs");
        lab.run(&["rbd", "create", "--size", "8M", &lab.spec(&theirs)]);
        let wanted = features(&lab.io, &theirs);
        lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&theirs)]);
        for kernel in kernels {
            self.kernel.supports(*kernel);
            let name = fresh("ours");
            self.make(lab, &name, &[]).unwrap_or_else(|e| panic!("{what}, kernel {}: {e}", told(*kernel)));
            let has = self.map_and_remove(lab, &name);
            let most = most(wanted, *kernel);
            assert_eq!(told(has), told(most), "{what}, kernel {}", told(*kernel));
        }
    }
}

fn what_create_makes_this_kernel_can_map(lab: &Lab) {
    let world = world(lab, &options(lab));
    world.compare(lab, &kernels(), "no settings");
    for (settings, kernels) in [
        (&[("rbd_default_features", "125")][..], kernels()),
        (
            &[("rbd_default_features", "layering,exclusive-lock,object-map")],
            vec![ALL, ALL & !FAST_DIFF, ALL & !OBJECT_MAP, ALL & !EXCLUSIVE_LOCK],
        ),
        (&[("rbd_default_features", "exclusive-lock,journaling")], vec![ALL, 0x1bf, ALL & !EXCLUSIVE_LOCK]),
        (&[("rbd_default_features", " layering , deep-flatten ")], vec![ALL, ALL & !DEEP_FLATTEN]),
        // Without a word it is what Ceph comes with.
        (&[("rbd_default_features", "")], vec![ALL, ALL & !FAST_DIFF, LAYERING]),
        (&[("rbd_default_stripe_unit", "65536"), ("rbd_default_stripe_count", "4")], kernels()),
        (
            &[
                ("rbd_default_stripe_unit", "64K"),
                ("rbd_default_stripe_count", "1"),
                ("rbd_default_order", "20"),
            ],
            vec![ALL, ALL & !STRIPING, LAYERING],
        ),
        (
            &[
                ("rbd_default_stripe_unit", "8388608"),
                ("rbd_default_stripe_count", "1"),
                ("rbd_default_order", "23"),
            ],
            vec![ALL, ALL & !STRIPING],
        ),
    ] {
        for (key, value) in settings {
            lab.run(&["rbd", "config", "pool", "set", &lab.pool, key, value]);
        }
        world.compare(lab, &kernels, &format!("{settings:?}"));
        for (key, _) in settings {
            lab.run(&["rbd", "config", "pool", "remove", &lab.pool, key]);
        }
    }
}

fn the_settings_of_pool_and_cluster_count(lab: &Lab) {
    let set = ["ceph", "config", "set", "client", "rbd_default_features"];
    lab.run(&[&set[..], &["layering,exclusive-lock,object-map,fast-diff"]].concat());
    let of_cluster = world(lab, &options(lab));
    of_cluster.compare(lab, &[ALL, ALL & !FAST_DIFF, LAYERING], "the cluster's");
    // The pool's own come first.
    let pool = ["rbd", "config", "pool"];
    lab.run(&[&pool[..], &["set", &lab.pool, "rbd_default_features", "layering,deep-flatten"]].concat());
    of_cluster.compare(lab, &[ALL, ALL & !DEEP_FLATTEN], "the pool's");
    lab.run(&[&pool[..], &["remove", &lab.pool, "rbd_default_features"]].concat());
    lab.run(&["ceph", "config", "rm", "client", "rbd_default_features"]);
}

fn what_was_named_and_cannot_be_had_is_refused(lab: &Lab) {
    let world = world(lab, &options(lab));
    let lacks = |lacking: &str| format!("this kernel cannot map images with {lacking}");
    // Beside what the plugin keeps for itself.
    let objects = || {
        let listed = lab.run(&["rados", "-p", &lab.pool, "ls"]);
        let mut of_images: Vec<String> = listed
            .lines()
            .filter(|line| !line.starts_with("rbd_docker_plugin."))
            .map(str::to_owned)
            .collect();
        of_images.sort_unstable();
        of_images
    };
    let existing = objects();
    for (words, kernel, parts) in [
        (&[("features", "layering,journaling")][..], ALL, vec!["journaling needs exclusive-lock".to_owned()]),
        (
            &[("features", "exclusive-lock,journaling")],
            0x1bf,
            vec![lacks("journaling"), "leave journaling out".to_owned()],
        ),
        (
            &[("features", "layering,exclusive-lock,object-map")],
            ALL & !FAST_DIFF,
            vec![lacks("fast-diff (which comes with object-map)"), "leave object-map out".to_owned()],
        ),
        (
            &[("features", "exclusive-lock,object-map,fast-diff,journaling")],
            ALL & !EXCLUSIVE_LOCK,
            vec![
                lacks("exclusive-lock"),
                "leave exclusive-lock,object-map,fast-diff,journaling out".to_owned(),
            ],
        ),
        (
            &[("features", "layering,deep-flatten,exclusive-lock")],
            0x187,
            vec![lacks("deep-flatten"), "leave deep-flatten out".to_owned()],
        ),
        (
            &[("stripe-unit", "64K"), ("stripe-count", "4")],
            ALL & !STRIPING,
            vec![lacks("striping"), "stripe-unit and stripe-count".to_owned()],
        ),
        (&[("features", "layering,migrating")], u64::MAX, vec!["nobody can choose it".to_owned()]),
        (&[("features", "layering,operations")], ALL, vec!["nobody can choose it".to_owned()]),
    ] {
        world.kernel.supports(kernel);
        let name = fresh("refused");
        let said = world.make(lab, &name, words).unwrap_err().to_string();
        for part in parts {
            assert!(said.contains(&part), "{words:?}: {said}, not {part}");
        }
        assert!(world.backend.info(&spec(lab, &name)).unwrap().is_none(), "{words:?}");
    }
    assert_eq!(objects(), existing, "something was made");
    // A layout without stripes needs no feature, however it is written.
    world.kernel.supports(ALL & !STRIPING);
    world.make(lab, "plain", &[("stripe-unit", "4M"), ("stripe-count", "1")]).unwrap();
    assert_eq!(world.map_and_remove(lab, "plain") & STRIPING, 0);
    // What the plugin's settings name is named, too.
    let settings = config::Ceph { features: Some("exclusive-lock,object-map".to_owned()), ..options(lab) };
    let strict = self::world(lab, &settings);
    strict.kernel.supports(ALL & !FAST_DIFF);
    let said = strict.make(lab, &fresh("refused"), &[]).unwrap_err().to_string();
    assert!(said.contains(&lacks("fast-diff")) && said.contains("--features"), "{said}");
    strict.make(lab, "other", &[("features", "layering")]).unwrap();
    assert_eq!(strict.map_and_remove(lab, "other"), LAYERING);
}

fn data_goes_to_no_other_pool_in_silence(lab: &Lab) {
    let world = world(lab, &options(lab));
    let data = fresh("data");
    lab.run(&["ceph", "osd", "pool", "create", &data, "8"]);
    lab.run(&["ceph", "osd", "pool", "application", "enable", &data, "rbd"]);
    let refused = |words: &[(&str, &str)]| {
        let said = world.make(lab, &fresh("refused"), words).unwrap_err().to_string();
        assert!(said.contains("this kernel cannot map images with data-pool"), "{said}");
        said
    };
    world.kernel.supports(ALL & !DATA_POOL);
    assert!(refused(&[("data-pool", &data)]).contains("leave data-pool out"));
    let pool = ["rbd", "config", "pool"];
    lab.run(&[&pool[..], &["set", &lab.pool, "rbd_default_data_pool", &data]].concat());
    let said = refused(&[]);
    let (default, own) = (format!("rbd_default_data_pool={data}"), format!("-o data-pool={}", lab.pool));
    assert!(said.contains(&default) && said.contains(&own), "{said}");
    // The way out that it names.
    let beside = [("data-pool", lab.pool.as_str())];
    world.make(lab, "beside", &beside).unwrap();
    assert_eq!(world.map_and_remove(lab, "beside") & DATA_POOL, 0);
    world.kernel.supports(0x1bf);
    world.compare(lab, &[ALL, 0x1bf], "with a data pool");
    lab.run(&[&pool[..], &["set", &lab.pool, "rbd_default_data_pool", &lab.pool]].concat());
    world.compare(lab, &[ALL & !DATA_POOL], "with itself as data pool");
    lab.run(&[&pool[..], &["remove", &lab.pool, "rbd_default_data_pool"]].concat());
}

/// The error of a Mount of this image.
fn unmappable(world: &World, lab: &Lab, name: &str) -> DriverError {
    world.backend.map(&spec(lab, name)).expect_err("the kernel lacks something")
}

fn what_lacks_is_named_with_the_way_out(lab: &Lab) {
    let world = world(lab, &options(lab));
    let data = fresh("data");
    lab.run(&["ceph", "osd", "pool", "create", &data, "8"]);
    lab.run(&["ceph", "osd", "pool", "application", "enable", &data, "rbd"]);
    for kernel in kernels() {
        let name = fresh("theirs");
        let (image, at) = (lab.spec(&name), spec(lab, &name));
        let every = "layering,exclusive-lock,object-map,fast-diff,deep-flatten,journaling";
        let create = ["rbd", "create", "--size", "8M", "--image-feature", every, "--data-pool", &data];
        lab.run(&[&create[..], &["--stripe-unit", "64K", "--stripe-count", "4", &image]].concat());
        let has = features(&lab.io, &name);
        assert_eq!(told(has), told(ALL & !OPERATIONS));
        world.kernel.supports(kernel);
        world.backend.claim(&at).unwrap();
        let lacking = has & !kernel;
        if lacking != 0 {
            let e = unmappable(&world, lab, &name);
            let named = format!("{image} has features that this kernel lacks: {}", told(lacking));
            assert_eq!(e.message, named, "kernel {}", told(kernel));
            let info = world.backend.info(&at).unwrap().unwrap();
            assert_eq!(info.trouble.unwrap().why.message, named);
            let hint = e.hint.unwrap();
            let hint = hint.split(" (").next().unwrap();
            match lacking & (LAYERING | STRIPING | DATA_POOL) {
                0 => drop(lab.run(&hint.split(' ').collect::<Vec<_>>())),
                _ => assert_eq!(hint, "use a newer kernel"),
            }
        }
        if features(&lab.io, &name) & !kernel == 0 {
            let device = world.backend.map(&at).unwrap_or_else(|e| panic!("kernel {}: {e}", told(kernel)));
            world.backend.unmap(&at, device).unwrap();
        } else {
            assert_ne!(lacking & (LAYERING | STRIPING | DATA_POOL), 0, "kernel {}", told(kernel));
        }
        world.backend.remove(&at).unwrap();
        world.backend.release(&at).unwrap();
    } // What an image gets by itself.
    let (name, group) = (fresh("theirs"), lab.spec("features"));
    lab.run(&["rbd", "create", "--size", "8M", &lab.spec(&name)]);
    lab.run(&["rbd", "group", "create", &group]);
    lab.run(&["rbd", "group", "image", "add", &group, &lab.spec(&name)]);
    world.kernel.supports(0x87);
    world.backend.claim(&spec(lab, &name)).unwrap();
    let said = unmappable(&world, lab, &name).to_string();
    let lacking = "lacks: object-map,fast-diff,deep-flatten,operations; use a newer kernel";
    assert!(said.ends_with(lacking), "{said}");
    world.backend.release(&spec(lab, &name)).unwrap();
    lab.run(&["rbd", "group", "rm", &group]);
    lab.run(&["rbd", "rm", "--no-progress", &lab.spec(&name)]);
}
