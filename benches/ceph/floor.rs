//! The floor: the same work in bare system calls, with everything known beforehand and nothing checked.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use rbd_docker_plugin::ceph::{CreateOptions, IoCtx};
use rbd_docker_plugin::linux::exec::Programs;
use rbd_docker_plugin::linux::{boot, fs as filesystem, mount};
use rbd_docker_plugin::model::deadline::Deadline;
use rbd_docker_plugin::model::filesystem::{Format, FsKind};

const DEVICES: &str = "/sys/bus/rbd/devices";

pub(crate) struct Floor {
    /// What goes to the kernel, with `IMAGE` for the image.
    line: String,
    target: PathBuf,
    programs: Programs,
}

impl Floor {
    /// The very line with which the plugin has mapped the volume that it has mounted there, but with the key in it.
    pub(crate) fn prepared(conf: &Path, mountpoint: &Path, image: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount =
            mounts.lines().find(|line| line.contains(&format!(" {} ", mountpoint.display()))).unwrap();
        let number = mount.split(' ').next().unwrap().strip_prefix("/dev/rbd").unwrap();
        let line = fs::read_to_string(format!("{DEVICES}/{number}/config_info")).unwrap();
        let keyring = fs::read_to_string(conf.with_file_name("docker.keyring")).unwrap();
        let key = keyring.lines().find_map(|line| line.trim().strip_prefix("key = ")).unwrap();
        let line = line.trim_end().replace("key=client.docker", &format!("secret={key}"));
        let line = line.replace(&format!(" rbd {image} "), " rbd IMAGE ");
        assert!(line.contains("secret=") && line.contains("IMAGE"));
        let target = PathBuf::from("/disk/floor");
        fs::create_dir_all(&target).unwrap();
        Self { line, target, programs: Programs::find() }
    }

    /// The number of the device: nothing else is mapped.
    fn map(&self, image: &str) -> String {
        let line = self.line.replace("IMAGE", image);
        let mut control = OpenOptions::new().write(true).open("/sys/bus/rbd/add_single_major").unwrap();
        assert_eq!(control.write(line.as_bytes()).unwrap(), line.len());
        let mut devices = fs::read_dir(DEVICES).unwrap();
        devices.next().unwrap().unwrap().file_name().into_string().unwrap()
    }

    /// udev keeps a device open for a moment when it has just been there.
    fn unmap(number: &str) {
        loop {
            let mut control =
                OpenOptions::new().write(true).open("/sys/bus/rbd/remove_single_major").unwrap();
            match control.write(number.as_bytes()) {
                Ok(_) => return,
                Err(e) => assert_eq!(e.raw_os_error(), Some(Errno::EBUSY as i32), "{e}"),
            }
            sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn mount(&self) -> String {
        let number = self.map("new");
        let device = PathBuf::from(format!("/dev/rbd{number}"));
        mount::mount(&device, "ext4", &self.target, &mount::parse("").unwrap()).unwrap();
        number
    }

    pub(crate) fn unmount(&self, number: String) {
        assert!(mount::unmount(&self.target).unwrap());
        Self::unmap(&number);
    }

    pub(crate) fn create(&self, io: &IoCtx, image: &str) {
        io.create_image(image, 512 << 20, &CreateOptions::default()).unwrap();
        let number = self.map(image);
        let format = Format { kind: FsKind::Ext4, uuid: boot::random_uuid().unwrap(), options: Vec::new() };
        let device = PathBuf::from(format!("/dev/rbd{number}"));
        filesystem::format(&self.programs, &device, &format, Deadline::after(Duration::from_secs(60)))
            .unwrap();
        Self::unmap(&number);
    }
}
