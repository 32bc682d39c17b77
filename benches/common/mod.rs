//! What the benches share: a clock, medians, and a client like Docker's, which keeps its connection.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) fn shown(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// A connection that is kept, as Docker's are.
#[derive(Debug)]
pub(crate) struct Session(BufReader<UnixStream>);

impl Session {
    pub(crate) fn new(socket: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(socket).unwrap()))
    }

    /// A request that must succeed; the length of the answer.
    pub(crate) fn ask(&mut self, endpoint: &str, body: &str) -> usize {
        let head = format!("POST /VolumeDriver.{endpoint} HTTP/1.1\r\nHost: plugin.moby.localhost\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut length, mut fine, mut line) = (0, false, String::new());
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            fine |= line.starts_with("HTTP/") && line.contains(" 200 ");
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = self.0.by_ref().take(length);
        if !fine {
            let mut error = String::new();
            answer.read_to_string(&mut error).unwrap();
            panic!("{endpoint} {body}: {error}");
        }
        std::io::copy(&mut answer, &mut std::io::sink()).unwrap();
        usize::try_from(length).unwrap()
    }
}
