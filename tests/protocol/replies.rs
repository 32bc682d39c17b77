//! Every reply, to well-formed requests, to tolerated ones and to refused ones.

use std::io::Write;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyperlocal::{UnixClientExt, UnixConnector, Uri};
use rbd_docker_plugin::frontend::http::server::Limits;

use crate::fake::{Empty, Fake};
use crate::rig::{Rig, is_closed, post, read_reply};

/// Requests and replies as one text.
fn conversation(rig: &Rig, requests: &[(&str, &str)]) -> String {
    requests.iter().map(|(path, body)| format!("=== {path} {body}\n{}\n", rig.ask(path, body))).collect()
}

#[test]
fn well_formed() {
    let rig = Rig::start();
    let said = conversation(
        &rig,
        &[
            ("/Plugin.Activate", ""),
            ("/Plugin.Deactivate", ""),
            ("/VolumeDriver.Capabilities", "{}"),
            ("/VolumeDriver.Create", r#"{"Name":"a","Opts":{"size":"64","fstype":"ext4"}}"#),
            ("/VolumeDriver.Create", r#"{"Name":"b","Opts":null}"#),
            ("/VolumeDriver.Mount", r#"{"Name":"a","ID":"0123"}"#),
            ("/VolumeDriver.Path", r#"{"Name":"mounted"}"#),
            ("/VolumeDriver.Path", r#"{"Name":"a"}"#),
            ("/VolumeDriver.Get", r#"{"Name":"a"}"#),
            ("/VolumeDriver.Get", r#"{"Name":"mounted"}"#),
            ("/VolumeDriver.List", "{}"),
            ("/VolumeDriver.Unmount", r#"{"Name":"a","ID":"0123"}"#),
            ("/VolumeDriver.Remove", r#"{"Name":"a"}"#),
        ],
    );
    insta::assert_snapshot!(said);
    insta::assert_debug_snapshot!("calls", rig.fake.calls());
}

#[test]
fn none_and_local() {
    let rig = Rig::serving(Arc::new(Empty), Arc::new(Fake::default()), Limits::default(), 1);
    let said = conversation(&rig, &[("/VolumeDriver.List", ""), ("/VolumeDriver.Capabilities", "")]);
    insta::assert_snapshot!(said);
}

#[test]
fn refused() {
    let rig = Rig::start();
    let said = conversation(
        &rig,
        &[
            ("/VolumeDriver.Get", r#"{"Name":"missing"}"#),
            ("/VolumeDriver.Create", r#"{"Name":"full"}"#),
            ("/VolumeDriver.Mount", r#"{"Name":"away"}"#),
            ("/VolumeDriver.Path", r#"{"Name":"away"}"#),
            ("/VolumeDriver.Mount", ""),
            ("/VolumeDriver.Mount", "{"),
            ("/VolumeDriver.Mount", "[]"),
            ("/VolumeDriver.Mount", "{}"),
            ("/VolumeDriver.Mount", r#"{"Name":7}"#),
            ("/VolumeDriver.Create", r#"{"Name":"a","Opts":{"size":{}}}"#),
            ("/VolumeDriver.Explode", "{}"),
            ("/", ""),
        ],
    );
    insta::assert_snapshot!(said);
}

#[test]
fn a_panic_is_an_error_and_the_daemon_lives() {
    let rig = Rig::start();
    for request in ["Create", "Mount", "Path"] {
        let reply = rig.ask(&format!("/VolumeDriver.{request}"), r#"{"Name":"panic"}"#);
        assert!(reply.starts_with("HTTP/1.1 500 "), "{reply}");
        assert!(reply.contains(r#"{"Err":"internal error: as told;"#), "{reply}");
    }
    rig.assert_serves_others();
}

#[test]
fn a_get_that_knows_nothing_is_not_answered() {
    let rig = Rig::start();
    for name in ["away", "full", "panic"] {
        assert_eq!(rig.ask("/VolumeDriver.Get", &format!(r#"{{"Name":"{name}"}}"#)), "", "{name}");
    }
    rig.assert_serves_others();
}

#[test]
fn a_get_that_docker_repeats_without_its_body_is_not_answered() {
    let rig = Rig::start();
    let accept = "Accept: application/vnd.docker.plugins.v1.2+json";
    for (header, answered) in [(accept, ""), ("Accept: */*", "HTTP/1.1 400")] {
        let mut stream = rig.connect();
        write!(stream, "POST /VolumeDriver.Get HTTP/1.1\r\nHost: x\r\n{header}\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let reply = read_reply(&mut stream);
        assert_eq!(reply.get(..12.min(reply.len())), Some(answered), "{header}: {reply}");
    }
    rig.assert_serves_others();
}

#[test]
fn tolerated() {
    let rig = Rig::start();
    let body = r#"{"name":"a"}"#;
    let length = body.len();
    for (what, request) in [
        (
            "HTTP/1.0 without Host",
            format!("POST /VolumeDriver.Get HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}"),
        ),
        ("no Host", format!("POST /VolumeDriver.Get HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}")),
        (
            "empty Host",
            format!("POST /VolumeDriver.Get HTTP/1.1\r\nHost:\r\nContent-Length: {length}\r\n\r\n{body}"),
        ),
        (
            "a socket's path as Host",
            format!(
                "POST /VolumeDriver.Get HTTP/1.1\r\nHost: /run/docker/plugins/rbd.sock\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        ),
        (
            "a content type",
            format!(
                "POST /VolumeDriver.Get HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        ),
        (
            "another method",
            format!("GET /VolumeDriver.Get HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"),
        ),
        (
            "chunks",
            format!(
                "POST /VolumeDriver.Get HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            ),
        ),
        (
            "a query",
            format!(
                "POST /VolumeDriver.Get?x=y HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        ),
        (
            "a whole URL",
            format!(
                "POST http://x/VolumeDriver.Get HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        ),
    ] {
        let mut stream = rig.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let reply = read_reply(&mut stream);
        assert!(
            reply.contains(" 200 OK\n") && reply.ends_with("{\"Volume\":{\"Name\":\"a\"}}\n"),
            "{what}: {reply}"
        );
    }
    for path in ["/Plugin.Activate", "/Plugin.Deactivate", "/VolumeDriver.List", "/VolumeDriver.Capabilities"]
    {
        let reply = rig.ask(path, "\u{0}no JSON");
        assert!(reply.starts_with("HTTP/1.1 200 OK\n"), "{path}: {reply}");
    }
}

#[test]
fn one_connection_many_requests() {
    let rig = Rig::start();
    let mut stream = rig.connect();
    for n in 0..100 {
        stream.write_all(post("/VolumeDriver.Get", &format!(r#"{{"Name":"v{n}"}}"#)).as_bytes()).unwrap();
        assert!(read_reply(&mut stream).ends_with(&format!("{{\"Volume\":{{\"Name\":\"v{n}\"}}}}\n")));
    }
    let pipeline =
        post("/VolumeDriver.Get", r#"{"Name":"p1"}"#) + &post("/VolumeDriver.Get", r#"{"Name":"p2"}"#);
    stream.write_all(pipeline.as_bytes()).unwrap();
    for name in ["p1", "p2"] {
        assert!(read_reply(&mut stream).contains(name), "{name}");
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(is_closed(&mut stream));
}

#[test]
fn the_client_of_hyperlocal_is_served() {
    let rig = Rig::start();
    let (status, kind, body) = rig.runtime.block_on(async {
        let client: Client<UnixConnector, Full<Bytes>> = Client::unix();
        let request = hyper::Request::post(Uri::new(&rig.path, "/VolumeDriver.Mount"))
            .body(Full::from(r#"{"Name":"a","ID":"1"}"#))
            .unwrap();
        let reply = client.request(request).await.unwrap();
        let kind = reply.headers()["content-type"].to_str().unwrap().to_owned();
        (reply.status().as_u16(), kind, reply.into_body().collect().await.unwrap().to_bytes())
    });
    assert_eq!((status, kind.as_str()), (200, "application/vnd.docker.plugins.v1.1+json"));
    assert_eq!(body, "{\"Mountpoint\":\"/mnt/a\"}\n");
}
