//! What `rbd --id USER ls POOL` can do with a keyring and a ceph.conf, the plugin can do.
//!
//! `corpus/` has one keyring or ceph.conf each, with words in `@` for what only this cluster knows. Whether `rbd` works with it is found
//! out by running it; the file's name says it only for those who read the list. `bad-L3-…` is refused, and line 3 is named.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use rbd_docker_plugin::backend::rbd::conf_and_key::{self, KeyPlace};
use rbd_docker_plugin::config;
use rbd_docker_plugin::linux::keyring::Key;

use crate::commands::run_user;
use crate::hosts::{options, with_user};
use crate::rig::{Lab, Ready, trial};

/// A whole key of nobody's, and one of a type that no librados before 20.2 knows.
const OTHER: &str = "AQBmzkBnAAAAABAAAAECAwQFBgcICQoLDA0ODw==";
const TYPE_2: &str = "AgBmzkBnAAAAACAAAAECAwQFBgcICQoLDA0ODwABAgMEBQYHCAkKCwwNDg8=";
const USER: &str = "corpus";

pub(crate) fn trials(ready: &Ready) -> Vec<Trial> {
    vec![
        trial("a_keyring_or_conf_that_rbd_takes_is_taken_and_any_other_is_named", ready, corpus),
        trial("commands_name_the_line_of_a_keyring_and_never_show_a_key", ready, shown_by_doctor),
    ]
}

/// The user, his key, and what stands for what in the corpus.
struct Words {
    dir: PathBuf,
    key: String,
    words: Vec<(&'static str, String)>,
}

impl Words {
    fn of(lab: &Lab, dir: &Path) -> Self {
        with_user(lab, dir, USER, &["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"]);
        let key = lab.run(&["ceph", "auth", "print-key", "client.corpus"]).trim().to_owned();
        let address = |port: u16| format!("127.0.0.1:{port}");
        let port = |protocol: &str| -> u16 {
            let dump = lab.run(&["ceph", "mon", "dump", "-f", "json"]);
            let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
            let all = dump["mons"][0]["public_addrs"]["addrvec"].as_array().unwrap().clone();
            let found = all.iter().find(|address| address["type"] == protocol).unwrap();
            found["addr"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
        };
        let at = |name: &str| dir.join(name).display().to_string();
        let ring = format!("[client.{USER}]\nkey = {key}\n");
        fs::write(at("ring"), &ring).unwrap();
        fs::write(at("others"), format!("[client.other]\nkey = {OTHER}\n")).unwrap();
        fs::write(at("keyfile"), format!("{key}\n")).unwrap();
        let (half, rest) = key.split_at(9);
        let words = vec![
            ("@KE\\\nY@", format!("{half}\\\n{rest}")),
            ("@KEY@", key.clone()),
            ("@KEY1@", key.trim_end_matches('=').to_owned()),
            ("@CUT@", key[..key.len() - 8].to_owned()),
            ("@OTHER@", OTHER.to_owned()),
            ("@TYPE2@", TYPE_2.to_owned()),
            ("@V2@", address(port("v2"))),
            ("@V1@", address(port("v1"))),
            ("@PORT1@", port("v1").to_string()),
            ("@KEYRING@", at("ring")),
            ("@OTHERS@", at("others")),
            ("@KEYFILE@", at("keyfile")),
            ("@NONE@", at("none")),
            ("client.docker", format!("client.{USER}")),
        ];
        Self { dir: dir.to_owned(), key, words }
    }

    fn write(&self, dir: &Path, from: &Path) -> (PathBuf, PathBuf) {
        let mut text = fs::read_to_string(from).unwrap();
        for (word, meaning) in &self.words {
            text = text.replace(word, meaning);
        }
        let text = text.replace("@DIR@", &dir.display().to_string());
        let file = dir.join(from.file_name().unwrap());
        fs::write(&file, text).unwrap();
        // A ceph.conf is of the cluster that it is called after.
        let named = file.with_extension(format!("client.{USER}.keyring"));
        fs::copy(self.dir.join("ring"), named).unwrap();
        if from.extension().unwrap().as_bytes() == b"conf" {
            return (file.clone(), file);
        }
        let monitors = &self.words.iter().find(|(word, _)| *word == "@V2@").unwrap().1;
        let conf = dir.join("ceph.conf");
        fs::write(&conf, format!("[global]\nmon_host = v2:{monitors}\nkeyring = {}\n", file.display()))
            .unwrap();
        (conf, file)
    }
}

fn corpus(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let words = Words::of(lab, dir.path());
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ceph/corpus"));
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 80, "{} files", files.len());
    let half = |files: &[PathBuf], dir: &str| -> Vec<String> {
        let dir = words.dir.join(dir);
        fs::create_dir(&dir).unwrap();
        files.iter().filter_map(|from| one(lab, &words, &dir, from).err()).collect()
    };
    // Most of the time is spent waiting.
    let wrong = std::thread::scope(|scope| {
        let parts: Vec<_> = files.chunks(files.len().div_ceil(4)).enumerate().collect();
        let threads = parts.into_iter().map(|(at, files)| scope.spawn(move || half(files, &at.to_string())));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<String>>()
    });
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), files.len(), wrong.join("\n"));
    lab.run(&["ceph", "auth", "rm", "client.corpus"]);
}

fn one(lab: &Lab, words: &Words, dir: &Path, from: &Path) -> Result<(), String> {
    let name = from.file_stem().unwrap().to_str().unwrap();
    let (conf, file) = words.write(dir, from);
    let rbd = Command::new("timeout")
        .args(["20", "rbd", "--id", USER, "-c"])
        .arg(&conf)
        .args(["ls", &lab.pool])
        .env_remove("CEPH_CONF")
        .args(["--client-mount-timeout", "4"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let ours = run_user(lab, &conf, USER, &["check"]);
    let told = format!("{}{}", ours.out, ours.err);
    let fail = |why: &str| {
        let rbd: String =
            String::from_utf8_lossy(&rbd.stderr).trim().replace('\n', " / ").chars().take(300).collect();
        Err(format!(
            "{}: {why}\n    ours: {}\n    rbd: {rbd}",
            from.file_name().unwrap().display(),
            told.trim()
        ))
    };
    for key in [words.key.as_str(), OTHER, TYPE_2, words.key.trim_end_matches('=')] {
        if told.contains(key) || told.contains(&key[..key.len() - 8]) {
            return fail("it shows a key");
        }
    }
    if rbd.status.success() != name.starts_with("ok-") {
        return fail("its name says something else than rbd does");
    }
    if rbd.status.success() {
        let options = config::Ceph { conf, user: USER.to_owned(), ..options(lab) };
        return match conf_and_key::key_place(&options) {
            _ if ours.code != Some(0) => fail("rbd works, and we do not"),
            Ok(KeyPlace::At(_, key)) if Key::from_base64(words.key.as_bytes()) == Some(key.clone()) => Ok(()),
            other => fail(&format!("not the key for the kernel: {other:?}")),
        };
    }
    let line = name.strip_prefix("bad-L").and_then(|rest| rest.split('-').next());
    match (ours.code, line) {
        (Some(1..), Some(line)) if !told.contains(&format!("{}:{line}: ", file.display())) => {
            fail(&format!("line {line} is not named"))
        }
        (Some(1..), _) => Ok(()),
        _ => fail("rbd does not work, and we do"),
    }
}

fn shown_by_doctor(lab: &Lab) {
    let dir = tempfile::tempdir().unwrap();
    let words = Words::of(lab, dir.path());
    let from = |name: &str| Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ceph/corpus")).join(name);
    let (conf, file) = words.write(dir.path(), &from("bad-L4-damaged-key-of-another.keyring"));
    let doctor = run_user(lab, &conf, USER, &["doctor", "--format=json"]);
    let (status, found, _) = doctor.line("key");
    assert!(status == "fail" && found.contains(&format!("{}:4: ", file.display())), "{doctor:?}");
    let (conf, file) = words.write(dir.path(), &from("bad-type-2.keyring"));
    let doctor = run_user(lab, &conf, USER, &["doctor", "--format=json"]);
    let (status, found, fix) = doctor.line("connection");
    assert!(
        status == "fail" && found.contains("of type 2 (aes256k), which this librados (of Ceph "),
        "{doctor:?}"
    );
    assert!(found.contains(&file.display().to_string()) && fix.contains("--key-type aes"), "{doctor:?}");
    let (conf, file) = words.write(dir.path(), &from("bad-L4-value-beyond-ascii.conf"));
    let doctor = run_user(lab, &conf, USER, &["doctor", "--format=json"]);
    assert!(doctor.lines("key")[0].1.contains(&format!("{}:4: ", file.display())), "{doctor:?}");
    lab.run(&["ceph", "auth", "rm", "client.corpus"]);
}
