//! A driver that does what the name of the volume says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use rbd_docker_plugin::driver::api::{Client, Glance, Volume, VolumeDriver};
use rbd_docker_plugin::model::error::{DriverError, ErrorKind, Result};
use rbd_docker_plugin::model::settings::Scope;

/// Long enough for any machine; a test that waits so long has failed.
pub const LONG: Duration = Duration::from_secs(60);

/// Remembers its calls; a Mount of `slow…` waits for the gate.
#[derive(Debug, Default)]
pub struct Fake {
    calls: Mutex<Vec<String>>,
    called: Condvar,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Fake {
    /// Everything called so far.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// Waits until `call` was made.
    pub fn wait_for(&self, call: &str) {
        let calls = self.calls.lock().unwrap();
        let missing = |calls: &mut Vec<String>| !calls.iter().any(|c| c == call);
        let (calls, late) = self.called.wait_timeout_while(calls, LONG, missing).unwrap();
        assert!(!late.timed_out(), "{call} was never called: {calls:?}");
    }

    /// Lets the slow ones go on.
    pub fn open_gate(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap().push(call);
        self.called.notify_all();
    }

    fn act(&self, name: &str) -> Result<()> {
        match name {
            "missing" => Err(DriverError::new(ErrorKind::NotFound, "no such volume: missing")),
            "away" => Err(DriverError::new(ErrorKind::Unreachable, "the storage does not answer")),
            "full" => {
                Err(DriverError::new(ErrorKind::NoSpace, "volume \"full\": no space left").hint("free some"))
            }
            "panic" => panic!("as told"),
            name if name.starts_with("slow") => {
                let open = self.open.lock().unwrap();
                let late = self.opened.wait_timeout_while(open, LONG, |open| !*open).unwrap().1;
                assert!(!late.timed_out(), "nobody opened the gate");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl VolumeDriver for Fake {
    fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<()> {
        self.called(format!("create {name} {options:?}"));
        self.act(name)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.called(format!("remove {name}"));
        self.act(name)
    }

    fn mount(
        &self,
        name: &str,
        id: &str,
        client: Option<Client>,
        waits: &dyn Fn() -> bool,
    ) -> Result<PathBuf> {
        assert_eq!(client, None, "a test is no Docker engine");
        self.called(format!("mount {name} {id:?}"));
        self.act(name)?;
        self.called(format!("mounted {name} {id:?}"));
        if !waits() {
            self.called(format!("taken back {name} {id:?}"));
        }
        Ok(format!("/mnt/{name}").into())
    }

    fn unmount(&self, name: &str, id: &str) -> Result<()> {
        self.called(format!("unmount {name} {id:?}"));
        if name.starts_with("slow") { Ok(()) } else { self.act(name) }
    }

    fn path(&self, name: &str) -> Result<Option<PathBuf>> {
        self.act(name).map(|()| (name == "mounted").then(|| "/mnt/mounted".into()))
    }

    fn get(&self, name: &str) -> Result<Volume> {
        self.act(name)?;
        let mut volume = Volume { name: name.to_owned(), ..Volume::default() };
        if name == "mounted" {
            volume.mountpoint = Some("/mnt/mounted".into());
            volume.created_at = Some("2026-11-20T13:07:43Z".to_owned());
            volume.status.insert("health".to_owned(), "ok".into());
            volume.status.insert("size".to_owned(), 1024.into());
        }
        Ok(volume)
    }

    fn list(&self) -> Result<Vec<Volume>> {
        Ok(vec![self.get("a")?, self.get("mounted")?])
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn glance(&self) -> Glance {
        Glance::default()
    }
}

/// A driver without volumes, of this host.
#[derive(Debug)]
pub struct Empty;

impl VolumeDriver for Empty {
    fn create(&self, _: &str, _: &BTreeMap<String, String>) -> Result<()> {
        Ok(())
    }
    fn remove(&self, _: &str) -> Result<()> {
        Ok(())
    }
    fn mount(&self, _: &str, _: &str, _: Option<Client>, _: &dyn Fn() -> bool) -> Result<PathBuf> {
        Ok("/mnt".into())
    }
    fn unmount(&self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
    fn path(&self, _: &str) -> Result<Option<PathBuf>> {
        Ok(None)
    }
    fn get(&self, name: &str) -> Result<Volume> {
        Err(DriverError::new(ErrorKind::NotFound, format!("no such volume: {name}")))
    }
    fn list(&self) -> Result<Vec<Volume>> {
        Ok(Vec::new())
    }
    fn scope(&self) -> Scope {
        Scope::Local
    }
    fn glance(&self) -> Glance {
        Glance::default()
    }
}
