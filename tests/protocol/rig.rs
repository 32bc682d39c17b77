//! A server in a folder of its own, and a client that writes and reads bytes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::frontend::docker::Docker;
use rbd_docker_plugin::frontend::http::operations::Operations;
use rbd_docker_plugin::frontend::http::server::Limits;
use rbd_docker_plugin::frontend::http::socket::{Claim, Socket};
use rbd_docker_plugin::linux::process;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fake::{Fake, LONG};

/// A running server.
pub struct Rig {
    pub fake: Arc<Fake>,
    pub path: PathBuf,
    pub runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<usize>>,
    socket: Option<Socket>,
    _folder: TempDir,
}

impl Rig {
    pub fn start() -> Self {
        Self::with(Limits::default(), 384)
    }

    pub fn with(limits: Limits, changes: usize) -> Self {
        let fake = Arc::new(Fake::default());
        let driver: Arc<dyn VolumeDriver> = Arc::clone(&fake) as _;
        Self::serving(driver, fake, limits, changes)
    }

    pub fn serving(driver: Arc<dyn VolumeDriver>, fake: Arc<Fake>, limits: Limits, changes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gid = nix::unistd::getegid().as_raw();
        let mut socket = Claim::take(folder.path(), "test").unwrap().bind(gid).unwrap();
        let path = socket.path().to_owned();
        let listener = socket.listener().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let operations = Arc::new(Operations::new(changes));
        let (stop, told) = oneshot::channel();
        let server = runtime.spawn(async move {
            Docker { driver, operations, limits, stat: process::stat }
                .serve(listener, async { drop(told.await) })
                .await
                .unwrap()
        });
        Self {
            fake,
            path,
            runtime,
            stop: Some(stop),
            server: Some(server),
            socket: Some(socket),
            _folder: folder,
        }
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }

    /// One request on a connection of its own.
    pub fn ask(&self, path: &str, body: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(post(path, body).as_bytes()).unwrap();
        read_reply(&mut stream)
    }

    /// What every hostile client must leave possible.
    pub fn assert_serves_others(&self) {
        let reply = self.ask("/VolumeDriver.Get", r#"{"Name":"other"}"#);
        assert!(reply.ends_with("{\"Volume\":{\"Name\":\"other\"}}\n"), "{reply}");
    }

    /// Tells the server to stop.
    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits for the server to end; how many operations it left.
    pub fn ended(&mut self) -> usize {
        let server = self.server.take().unwrap();
        let left =
            self.runtime.block_on(async { tokio::time::timeout(LONG, server).await }).unwrap().unwrap();
        self.socket.take().unwrap().remove();
        left
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.fake.open_gate();
    }
}

/// As Docker sends it.
pub fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n{body}",
        body.len()
    )
}

/// One reply without its date, the lines of its head ended by `\n`; empty when the connection ends before it begins.
pub fn read_reply(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => head.push(byte[0]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("{e} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let mut reply: String =
        head.lines().filter(|l| !l.starts_with("date: ")).flat_map(|line| [line, "\n"]).collect();
    reply.push_str(&String::from_utf8(body).unwrap());
    reply
}

/// Whether the server closes the connection without another word.
pub fn is_closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
