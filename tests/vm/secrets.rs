//! The key of the Ceph user: nowhere but in its keyring and in memory. And what the plugin starts: mkfs and checkers, no more.

use std::fs;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::json;

use crate::plugin::Plugin;
use crate::rig::{Lab, test};
use crate::trace::programs;
use crate::volumes::start;

pub(crate) fn trials() -> Vec<Trial> {
    vec![test("secrets_are_nowhere", nowhere), test("secrets_no_program_but_mkfs_and_checkers", started)]
}

/// A key in the forms in which it could show: as it is in the keyring, decoded in hex, and the secret in it alone.
struct Secret {
    forms: Vec<String>,
}

impl Secret {
    fn of(lab: &Lab) -> Self {
        let base64 = lab.cluster.ceph(&["auth", "get-key", "client.docker"]);
        let hex = lab.alpha().ok(&format!("echo {base64} | base64 -d | od -An -v -tx1 | tr -d ' \\n'"));
        assert_eq!(hex.len(), 2 * 28, "a key of AES");
        let secret = hex[24..].to_owned();
        Self { forms: vec![base64.trim_end_matches('=').to_owned(), secret.to_uppercase(), secret] }
    }

    #[track_caller]
    fn absent(&self, place: &str, text: &str) {
        assert!(!text.is_empty(), "{place}: there is nothing to look at");
        for form in &self.forms {
            assert!(!text.contains(form.as_str()), "the key is in {place}");
        }
    }
}

/// All that happens to a volume, errors included; the errors.
fn life(plugin: &Plugin<'_>, mut at_mount: impl FnMut()) -> String {
    plugin.ok("Create", &json!({"Name": "v", "Opts": {"size": "32M"}}));
    plugin.mount("v", "a");
    at_mount();
    let errors = [
        plugin.error("Remove", &json!({"Name": "v"})),
        plugin.error("Create", &json!({"Name": "v", "Opts": {"size": "64M"}})),
        plugin.error("Create", &json!({"Name": "w", "Opts": {"map-options": "secret=AQ=="}})),
        plugin.error("Create", &json!({"Name": "w", "Opts": {"map-options": "ms_mode=bogus"}})),
        plugin.error("Create", &json!({"Name": "w", "Opts": {"pool": "nowhere"}})),
        plugin.error("Mount", &json!({"Name": "none", "ID": "a"})),
    ];
    let answers =
        [plugin.ok("Get", &json!({"Name": "v"})).to_string(), plugin.ok("List", &json!({})).to_string()];
    plugin.unmount("v", "a");
    plugin.ok("Remove", &json!({"Name": "v"}));
    [errors.join("\n"), answers.join("\n")].join("\n")
}

fn nowhere(lab: &Lab) {
    let (host, secret) = (lab.alpha(), Secret::of(lab));
    let mut plugin = start(lab, host, &["--log-level", "trace"]);
    let pid = plugin.pid();
    let answers = life(&plugin, || {
        let seen = host.ok(&format!(
            "cat /proc/{pid}/cmdline /proc/{pid}/environ /proc/{pid}/task/*/comm | tr '\\0' '\\n'
             cat /sys/bus/rbd/devices/*/config_info /proc/keys /proc/mounts; dmesg"
        ));
        assert!(seen.contains("name=docker"), "{seen}");
        secret.absent("what the kernel shows", &seen);
    });
    secret.absent("an answer", &answers);
    // The test can fail.
    let keyring = host.ok(&format!("cat $(dirname {})/docker.keyring", lab.cluster.conf().display()));
    assert!(keyring.contains(&secret.forms[0]));
    plugin.stop();
    let log = fs::read_to_string(plugin.log()).unwrap();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is not at its fullest");
    secret.absent("the log", &log);
    let stderr = host.ok(&format!("cat {}/rbd-stderr.log; echo end", host.share().display()));
    secret.absent("stderr", &stderr);
    let state = host.ok("cat $(find /disk/volumes/.state /run/docker/plugins -type f); echo end");
    secret.absent("the state", &state);
    let records = String::from_utf8_lossy(
        &lab.cluster.try_run("rados", &["-p", "rbd", "listomapvals", "rbd_docker_plugin.hosts"]).stdout,
    )
    .into_owned();
    secret.absent("the records in the cluster", &format!("{records} "));
}

fn started(lab: &Lab) {
    let host = lab.alpha();
    let mut plugin = start(lab, host, &[]);
    let trace = host.share().join("strace.txt").display().to_string();
    let job = host.spawn(
        &format!("exec strace -f -e trace=execve -o {trace} -p {}", plugin.pid()),
        Duration::from_secs(300),
    );
    host.ok(&format!("until [ -e {trace} ]; do sleep 0.1; done; sleep 1"));
    life(&plugin, || {});
    plugin.stop();
    job.wait();
    let trace = fs::read_to_string(trace).unwrap();
    assert_eq!(programs(&trace), ["/usr/sbin/mkfs.ext4"], "{trace}");
}
