//! Objects, their keys, and object classes.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use libtest_mimic::Trial;
use nix::errno::Errno;
use rbd_docker_plugin::ceph::{ClassCall, CreateOptions, Image, IoCtx, Swap};

use crate::rig::{Lab, Ready, fresh, trial};

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    vec![
        trial("objects_are_made_read_and_removed", ready, life),
        trial("a_namespace_has_objects_of_its_own", ready, namespaces),
        trial("swap_compares_sets_and_removes", ready, swap),
        trial("swap_makes_the_object", ready, swap_missing),
        trial("swap_is_all_or_nothing", ready, swap_several),
        trial("swap_has_one_winner_among_eight", ready, swap_race),
        trial("omap_reads_all_pages", ready, pages),
        trial("class_methods_answer_and_fail", ready, methods),
        trial("many_objects_are_asked_at_once_and_answer_in_order", ready, many_objects),
        trial("several_methods_in_one_operation_fail_each_for_itself", ready, several_methods),
    ]
}

fn set<'a>(key: &'a str, expected: Option<&'a [u8]>, new: Option<&'a [u8]>) -> Swap<'a> {
    Swap { key, expected, new }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
}

fn life(lab: &Lab) {
    let (io, object) = (&lab.io, fresh("object"));
    let e = io.read(&object, 10).unwrap_err();
    assert_eq!((e.call, e.errno), ("rados_read", Errno::ENOENT));
    assert_eq!(e.object, format!("{}/{object}", lab.pool));
    io.create_object(&object).unwrap();
    assert_eq!(io.read(&object, 10).unwrap(), b"");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "hello").unwrap();
    lab.run(&["rados", "-p", &lab.pool, "put", &object, file.to_str().unwrap()]);
    io.create_object(&object).unwrap();
    assert_eq!(io.read(&object, 4).unwrap(), b"hell", "creating again changes nothing");
    assert_eq!(io.read(&object, 4 << 20).unwrap(), b"hello");
    io.remove_object(&object).unwrap();
    io.remove_object(&object).unwrap();
    assert_eq!(io.read(&object, 10).unwrap_err().errno, Errno::ENOENT);
    assert_eq!(io.read("a\0b", 1).unwrap_err().errno, Errno::EINVAL);
}

fn namespaces(lab: &Lab) {
    let namespace = fresh("ns");
    lab.run(&["rbd", "namespace", "create", &lab.spec(&namespace)]);
    assert!(lab.io.namespaces().unwrap().contains(&namespace));
    let inside = lab.io.cluster().ioctx(&lab.pool, Some(&namespace)).unwrap();
    assert!(inside.namespaces().unwrap().contains(&namespace), "they are listed from anywhere");
    assert_eq!(inside.namespace(), Some(namespace.as_str()));
    inside.create_object("here").unwrap();
    let e = lab.io.read("here", 1).unwrap_err();
    assert_eq!(e.errno, Errno::ENOENT);
    assert_eq!(inside.read("nothing", 1).unwrap_err().object, format!("{}/{namespace}/nothing", lab.pool));
    // More names than fit into a first guess at a buffer.
    let many: Vec<String> = (0..40).map(|n| format!("{}-{n:02}", "long".repeat(10))).collect();
    for name in &many {
        lab.run(&["rbd", "namespace", "create", &lab.spec(name)]);
    }
    let listed = lab.io.namespaces().unwrap();
    assert!(many.iter().all(|name| listed.contains(name)), "{listed:?}");
    assert_eq!(lab.io.cluster().ioctx(&lab.pool, Some("")).unwrap().namespace(), None);
}

fn swap(lab: &Lab) {
    let (io, object) = (&lab.io, fresh("swap"));
    io.create_object(&object).unwrap();
    assert_eq!(io.omap_swap(&object, &[set("k", Some(b"x"), Some(b"1"))]), Ok(false), "there is no key");
    assert_eq!(io.omap_swap(&object, &[set("k", None, Some(b"1"))]), Ok(true));
    assert_eq!(io.omap_swap(&object, &[set("k", None, Some(b"2"))]), Ok(false), "there is one now");
    assert_eq!(io.omap_swap(&object, &[set("k", Some(b"2"), Some(b"3"))]), Ok(false), "it is another");
    assert_eq!(io.omap_swap(&object, &[set("k", Some(b"11"), Some(b"3"))]), Ok(false), "it is longer");
    assert_eq!(io.omap(&object).unwrap(), map(&[("k", "1")]));
    assert_eq!(io.omap_swap(&object, &[set("k", Some(b"1"), Some(b"2\0\xff"))]), Ok(true));
    assert_eq!(io.omap_get(&object, &["k"]).unwrap()["k"], b"2\0\xff");
    assert_eq!(io.omap_swap(&object, &[set("k", Some(b"2"), None)]), Ok(false), "all of it counts");
    assert_eq!(io.omap_swap(&object, &[set("k", Some(b"2\0\xff"), None)]), Ok(true));
    assert_eq!(io.omap(&object).unwrap(), map(&[]));
    assert_eq!(io.omap_swap(&object, &[set("k", None, None)]), Ok(true), "nothing is nothing still");
    let e = io.omap_swap(&object, &[set("k", None, Some(b""))]).unwrap_err();
    assert_eq!(e.errno, Errno::EINVAL, "an empty value would be none");
}

fn swap_missing(lab: &Lab) {
    let (io, object) = (&lab.io, fresh("swap"));
    assert_eq!(io.omap(&object).unwrap_err().errno, Errno::ENOENT);
    assert_eq!(io.omap_get(&object, &["k"]).unwrap_err().errno, Errno::ENOENT);
    assert_eq!(io.omap_swap(&object, &[set("k", Some(b"x"), Some(b"1"))]), Ok(false));
    let object = fresh("swap");
    assert_eq!(io.omap_swap(&object, &[set("k", None, Some(b"1"))]), Ok(true));
    assert_eq!(io.omap(&object).unwrap(), map(&[("k", "1")]));
}

fn swap_several(lab: &Lab) {
    let (io, object) = (&lab.io, fresh("swap"));
    let first = [set("a", None, Some(b"1")), set("b", None, Some(b"2")), set("c", None, Some(b"3"))];
    assert_eq!(io.omap_swap(&object, &first), Ok(true));
    let wrong_last =
        [set("a", Some(b"1"), None), set("b", Some(b"2"), Some(b"9")), set("c", Some(b"0"), None)];
    assert_eq!(io.omap_swap(&object, &wrong_last), Ok(false));
    assert_eq!(io.omap(&object).unwrap(), map(&[("a", "1"), ("b", "2"), ("c", "3")]));
    let right = [set("a", Some(b"1"), None), set("b", Some(b"2"), Some(b"9")), set("d", None, Some(b"4"))];
    assert_eq!(io.omap_swap(&object, &right), Ok(true));
    assert_eq!(io.omap_get(&object, &["a", "b", "d", "e"]).unwrap(), map(&[("b", "9"), ("d", "4")]));
    assert_eq!(io.omap_get(&object, &[]).unwrap(), map(&[]));
}

fn swap_race(lab: &Lab) {
    const THREADS: usize = 8;
    const ROUNDS: usize = 25;
    let object = fresh("race");
    // Half of them share a client, the others have one each.
    let clients: Vec<IoCtx> =
        (0..THREADS).map(|n| if n % 2 == 0 { lab.io.clone() } else { lab.another() }).collect();
    let barrier = Barrier::new(THREADS);
    let won: Vec<Vec<bool>> = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(me, io)| {
                let (object, barrier) = (&object, &barrier);
                scope.spawn(move || {
                    let round = |round: usize| {
                        let expected = (round > 0).then(|| io.omap(object).unwrap()["owner"].clone());
                        barrier.wait();
                        let new = format!("{round} {me}");
                        let change = set("owner", expected.as_deref(), Some(new.as_bytes()));
                        let won = io.omap_swap(object, &[change]).unwrap();
                        barrier.wait();
                        let holds = io.omap(object).unwrap()["owner"] == new.as_bytes();
                        assert_eq!(won, holds, "round {round}, {me}");
                        won
                    };
                    (0..ROUNDS).map(round).collect::<Vec<bool>>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for round in 0..ROUNDS {
        assert_eq!(won.iter().filter(|won| won[round]).count(), 1, "round {round}");
    }
}

fn pages(lab: &Lab) {
    let (io, object) = (&lab.io, fresh("pages"));
    let keys: Vec<String> = (0..2500).map(|n| format!("key {n}")).collect();
    for part in keys.chunks(500) {
        let changes: Vec<_> = part.iter().map(|key| set(key, None, Some(key.as_bytes()))).collect();
        assert_eq!(io.omap_swap(&object, &changes), Ok(true));
    }
    let found = io.omap(&object).unwrap();
    assert_eq!(found.len(), keys.len());
    assert!(found.iter().all(|(key, value)| key.as_bytes() == value));
}

/// An image, and the object that the rbd class keeps its header in.
fn header(lab: &Lab) -> String {
    let name = fresh("header");
    lab.io.create_image(&name, 8 << 20, &CreateOptions::default()).unwrap();
    let id = Image::open_read_only(&lab.io, &name).unwrap().id().unwrap();
    format!("rbd_header.{id}")
}

const NO_SNAPSHOT: [u8; 8] = (u64::MAX - 1).to_le_bytes();

fn metadata_key(key: &str) -> Vec<u8> {
    let length = u32::try_from(key.len()).unwrap().to_le_bytes();
    [&length, key.as_bytes()].concat()
}

fn methods(lab: &Lab) {
    let (io, header) = (&lab.io, header(lab));
    let size = io.exec(&header, "rbd", "get_size", &NO_SNAPSHOT).unwrap();
    assert_eq!(size, [&[22][..], &(8_u64 << 20).to_le_bytes()].concat(), "order and size");
    let e = io.exec(&header, "rbd", "metadata_get", &metadata_key("none")).unwrap_err();
    assert_eq!(e.errno, Errno::ENOENT);
    assert_eq!(io.exec(&header, "rbd", "get_size", b"").unwrap_err().errno, Errno::EINVAL);
    assert_eq!(io.exec(&header, "rbd", "no_method", b"").unwrap_err().errno, Errno::EOPNOTSUPP);
    let e = io.exec("no object", "rbd", "get_size", &NO_SNAPSHOT).unwrap_err();
    assert_eq!(e.errno, Errno::ENOENT);
    // A method that changes something.
    let key_and_value = [&1_u32.to_le_bytes()[..], &metadata_key("key"), &metadata_key("value")].concat();
    assert_eq!(io.exec(&header, "rbd", "metadata_set", &key_and_value).unwrap(), b"");
    assert_eq!(io.exec(&header, "rbd", "metadata_get", &metadata_key("key")).unwrap(), metadata_key("value"));
    // Longer than any first guess at a buffer.
    let value = "v".repeat(100_000);
    let key_and_value = [&1_u32.to_le_bytes()[..], &metadata_key("long"), &metadata_key(&value)].concat();
    io.exec(&header, "rbd", "metadata_set", &key_and_value).unwrap();
    assert_eq!(io.exec(&header, "rbd", "metadata_get", &metadata_key("long")).unwrap(), metadata_key(&value));
}

fn several_methods(lab: &Lab) {
    let (io, header) = (&lab.io, header(lab));
    let missing = metadata_key("none");
    let call = |method, input| ClassCall { class: "rbd", method, input };
    let features = [&NO_SNAPSHOT[..], &[1]].concat();
    let calls = [
        call("get_size", &NO_SNAPSHOT[..]),
        call("metadata_get", &missing[..]),
        call("get_features", &features[..]),
        call("get_size", b"x"),
        call("get_snapcontext", b""),
    ];
    let answers = io.exec_many(&header, &calls).unwrap();
    let errors: Vec<Option<Errno>> = answers.iter().map(|answer| answer.as_ref().err().copied()).collect();
    assert_eq!(errors, [None, Some(Errno::ENOENT), None, Some(Errno::EINVAL), None]);
    assert_eq!(answers[0].as_ref().unwrap()[1..9], (8_u64 << 20).to_le_bytes());
    assert_eq!(answers[2].as_ref().unwrap().len(), 16);
    let e = io.exec_many("no object", &calls).unwrap_err();
    assert_eq!((e.call, e.errno), ("rados_read_op_operate", Errno::ENOENT));
    let unknown = io.exec_many(&header, &[calls[0], call("no_method", b"")]).unwrap_err();
    assert_eq!(unknown.errno, Errno::EOPNOTSUPP);
    assert_eq!(io.exec_many(&header, &[]), Ok(Vec::new()));
}

fn many_objects(lab: &Lab) {
    let (io, header) = (&lab.io, header(lab));
    let missing = metadata_key("none");
    let call = |method, input| ClassCall { class: "rbd", method, input };
    let calls = [call("get_size", &NO_SNAPSHOT[..]), call("metadata_get", &missing[..])];
    let objects = (0..50).map(|n| if n % 3 == 0 { "no object".to_owned() } else { header.clone() });
    for at_once in [0, 1, 7, 100] {
        let mut answers = Vec::new();
        io.exec_on_each(objects.clone(), &calls, at_once, |answer| answers.push(answer));
        assert_eq!(answers.len(), 50);
        for (n, answer) in answers.into_iter().enumerate() {
            match answer {
                Err(e) => assert_eq!((n % 3, e.errno), (0, Errno::ENOENT)),
                Ok(answer) => assert_eq!((n % 3 == 0, &answer[1]), (false, &Err(Errno::ENOENT))),
            }
        }
    }
}
