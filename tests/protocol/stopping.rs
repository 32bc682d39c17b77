//! A stop: what runs ends with its reply, what is idle is cut, who comes late is refused.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rbd_docker_plugin::frontend::http::server::Limits;

use crate::rig::{Rig, is_closed, post, read_reply};

/// Waits until nobody listens any more.
fn wait_until_refused(rig: &Rig) {
    for _ in 0..6000 {
        match UnixStream::connect(&rig.path) {
            Ok(_) => std::thread::sleep(Duration::from_millis(10)),
            Err(e) => return assert_eq!(e.kind(), ErrorKind::ConnectionRefused),
        }
    }
    panic!("the server still listens");
}

#[test]
fn what_runs_ends_with_its_reply() {
    let mut rig = Rig::start();
    let mut idle = rig.connect();
    let mut used = rig.connect();
    used.write_all(post("/Plugin.Activate", "").as_bytes()).unwrap();
    read_reply(&mut used);
    let mut busy = rig.connect();
    busy.write_all(post("/VolumeDriver.Mount", r#"{"Name":"slow","ID":"1"}"#).as_bytes()).unwrap();
    rig.fake.wait_for(r#"mount slow "1""#);
    rig.stop();
    wait_until_refused(&rig);
    assert!(is_closed(&mut used));
    assert!(rig.path.exists(), "the socket goes when all is done");
    rig.fake.open_gate();
    assert!(read_reply(&mut busy).ends_with("{\"Mountpoint\":\"/mnt/slow\"}\n"));
    assert_eq!(rig.ended(), 0);
    assert!(is_closed(&mut idle));
    assert!(!rig.path.exists());
}

#[test]
fn what_runs_ends_though_its_client_left() {
    let mut rig = Rig::start();
    let mut stream = rig.connect();
    stream.write_all(post("/VolumeDriver.Create", r#"{"Name":"slow"}"#).as_bytes()).unwrap();
    rig.fake.wait_for("create slow {}");
    drop(stream);
    rig.stop();
    wait_until_refused(&rig);
    rig.fake.open_gate();
    assert_eq!(rig.ended(), 0);
}

#[test]
fn what_never_ends_is_counted() {
    let mut rig = Rig::with(Limits { drain: Duration::from_millis(300), ..Limits::default() }, 2);
    let mut stream = rig.connect();
    stream.write_all(post("/VolumeDriver.Create", r#"{"Name":"slow"}"#).as_bytes()).unwrap();
    rig.fake.wait_for("create slow {}");
    rig.stop();
    assert_eq!(rig.ended(), 1);
}

#[test]
fn half_a_request_does_not_hold_a_stop_up() {
    let mut rig = Rig::with(Limits { linger: Duration::from_millis(50), ..Limits::default() }, 2);
    let mut half = rig.connect();
    half.write_all(b"POST /VolumeDriver.Create HTTP/1.1\r\nContent-Length: 9\r\n\r\n{").unwrap();
    rig.assert_serves_others();
    rig.stop();
    assert_eq!(rig.ended(), 0);
    assert!(is_closed(&mut half));
    assert_eq!(rig.fake.calls(), [""; 0]);
}
