//! Clients that are slow, broken or malicious, each beside one that must be served meanwhile.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use rbd_docker_plugin::frontend::http::server::Limits;

use crate::rig::{Rig, is_closed, post, read_reply};

/// Writes what the server may refuse to read to the end.
fn write_what_fits(stream: &mut impl Write, bytes: &[u8]) {
    // EPIPE is what the server is entitled to; its reply is what counts.
    let _ = stream.write_all(bytes);
}

#[test]
fn half_requests_and_idle_connections() {
    let rig = Rig::start();
    let whole = post("/VolumeDriver.Mount", r#"{"Name":"a","ID":"1"}"#);
    let mut open = Vec::new();
    for part in [0, 1, 20, whole.len() / 2, whole.len() - 1] {
        let mut stream = rig.connect();
        stream.write_all(&whole.as_bytes()[..part]).unwrap();
        open.push(stream);
        rig.assert_serves_others();
    }
    drop(open);
    rig.assert_serves_others();
    assert_eq!(rig.fake.calls(), [""; 0], "half a request does nothing");
}

#[test]
fn who_is_too_slow_is_cut_off() {
    let limits = Limits {
        head_time: Duration::from_millis(300),
        body_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let rig = Rig::with(limits, 1);
    let mut slow_head = rig.connect();
    slow_head.write_all(b"POST /Plugin.Act").unwrap();
    let mut slow_body = rig.connect();
    slow_body.write_all(b"POST /VolumeDriver.Get HTTP/1.1\r\nContent-Length: 99\r\n\r\n{").unwrap();
    let mut idle = rig.connect();
    rig.assert_serves_others();
    assert!(is_closed(&mut slow_head));
    assert!(is_closed(&mut idle));
    insta::assert_snapshot!(read_reply(&mut slow_body));
    assert!(is_closed(&mut slow_body));
}

#[test]
fn who_does_not_read_is_cut_off() {
    let rig = Rig::with(Limits { write_time: Duration::from_millis(300), ..Limits::default() }, 1);
    let mut stream = rig.connect();
    let many = post("/VolumeDriver.List", "").repeat(1000);
    // Far more than the kernel keeps for both directions.
    let cut = (0..100).find_map(|_| stream.write_all(many.as_bytes()).err());
    rig.assert_serves_others();
    assert!(cut.is_some_and(|e| matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)));
}

#[test]
fn a_head_of_a_megabyte() {
    let rig = Rig::start();
    let mut stream = rig.connect();
    let head = format!("POST /Plugin.Activate HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    write_what_fits(&mut stream, head.as_bytes());
    rig.assert_serves_others();
    assert!(read_reply(&mut stream).starts_with("HTTP/1.1 431 "));
    assert!(is_closed(&mut stream));
}

#[test]
fn a_head_of_many_fields() {
    let rig = Rig::start();
    let mut stream = rig.connect();
    let head = format!("POST /Plugin.Activate HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(5000));
    write_what_fits(&mut stream, head.as_bytes());
    assert!(read_reply(&mut stream).starts_with("HTTP/1.1 431 "));
    rig.assert_serves_others();
}

#[test]
fn a_body_of_ten_megabytes() {
    let rig = Rig::start();
    let body = "x".repeat(10 << 20);
    for head in [
        format!("POST /VolumeDriver.Create HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        format!(
            "POST /VolumeDriver.List HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
    ] {
        let mut stream = rig.connect();
        write_what_fits(&mut stream, head.as_bytes());
        rig.assert_serves_others();
        let reply = read_reply(&mut stream);
        assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
        assert!(reply.ends_with("{\"Err\":\"the request body is larger than 1048576 bytes\"}\n"), "{reply}");
    }
}

#[test]
fn garbage() {
    let rig = Rig::start();
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /x HTTP/1.1\r\n : \r\n\r\n",
        b"{\"Name\":\"a\"}\r\n\r\n",
    ] {
        let mut stream = rig.connect();
        write_what_fits(&mut stream, bytes);
        rig.assert_serves_others();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let reply = read_reply(&mut stream);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400 "), "{bytes:?}: {reply}");
    }
}

#[test]
fn a_chunk_that_is_none() {
    let rig = Rig::start();
    let mut stream = rig.connect();
    stream
        .write_all(
            b"POST /VolumeDriver.Create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        )
        .unwrap();
    assert!(read_reply(&mut stream).starts_with("HTTP/1.1 400 "));
    rig.assert_serves_others();
    assert_eq!(rig.fake.calls(), [""; 0]);
}

#[test]
fn all_connections_taken_is_over_when_they_time_out() {
    let limits = Limits { connections: 2, head_time: Duration::from_millis(300), ..Limits::default() };
    let rig = Rig::with(limits, 1);
    let _idle = [rig.connect(), rig.connect()];
    rig.assert_serves_others();
}

#[test]
fn a_client_that_hangs_up_during_a_mount() {
    // With one connection at a time the next client is served when the server knows that this one left.
    let rig = Rig::with(Limits { connections: 1, ..Limits::default() }, 384);
    let mut stream = rig.connect();
    stream.write_all(post("/VolumeDriver.Mount", r#"{"Name":"slow","ID":"1"}"#).as_bytes()).unwrap();
    rig.fake.wait_for(r#"mount slow "1""#);
    drop(stream);
    rig.assert_serves_others();
    rig.fake.open_gate();
    rig.fake.wait_for(r#"mounted slow "1""#);
    // Docker takes the mount for failed and will not unmount.
    rig.fake.wait_for(r#"taken back slow "1""#);
}

#[test]
fn what_has_not_begun_when_its_client_leaves_does_not_begin() {
    let rig = Rig::with(Limits { connections: 3, ..Limits::default() }, 1);
    let mut first = rig.connect();
    first.write_all(post("/VolumeDriver.Mount", r#"{"Name":"slow","ID":"1"}"#).as_bytes()).unwrap();
    rig.fake.wait_for(r#"mount slow "1""#);
    let mut second = rig.connect();
    second.write_all(post("/VolumeDriver.Mount", r#"{"Name":"b","ID":"2"}"#).as_bytes()).unwrap();
    // Reads need no permit.
    rig.assert_serves_others();
    // It takes the last connection, so that the next client is served when the server knows that the second left.
    let idle = rig.connect();
    drop(second);
    rig.assert_serves_others();
    drop(idle);
    let mut third = rig.connect();
    third.write_all(post("/VolumeDriver.Mount", r#"{"Name":"c","ID":"3"}"#).as_bytes()).unwrap();
    rig.fake.open_gate();
    assert!(read_reply(&mut first).ends_with("{\"Mountpoint\":\"/mnt/slow\"}\n"));
    assert!(read_reply(&mut third).ends_with("{\"Mountpoint\":\"/mnt/c\"}\n"));
    assert!(!rig.fake.calls().iter().any(|call| call.contains(" b ")), "{:?}", rig.fake.calls());
}
