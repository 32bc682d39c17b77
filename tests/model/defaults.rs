//! What the settings say of volumes of which nothing else is said.

use rbd_docker_plugin::backend::sim::{Data, Image};
use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::model::error::ErrorKind;
use rbd_docker_plugin::model::filesystem::FsKind;
use rbd_docker_plugin::model::name::ImageSpec;
use rbd_docker_plugin::model::settings::Removal;
use rbd_docker_plugin::model::size::Size;

use super::cases::{create, kind, names};
use super::rig::{Rig, spec};

#[test]
fn a_bare_name_is_in_the_namespace_of_the_settings() {
    let rig = Rig::new(Removal::Delete).set(|settings| settings.driver.namespace = Some("tenant".to_owned()));
    create(&rig.driver, "foo", &[]).unwrap();
    create(&rig.driver, "rbd/foo", &[]).unwrap();
    create(&rig.driver, "bar", &[("pool", "rbd")]).unwrap();
    create(&rig.driver, "apart", &[("pool", "ssd")]).unwrap();
    create(&rig.driver, "named", &[("namespace", "other")]).unwrap();
    let images: Vec<String> = rig.world.look().images.keys().map(ImageSpec::to_string).collect();
    assert_eq!(images, ["rbd/foo", "rbd/other/named", "rbd/tenant/bar", "rbd/tenant/foo", "ssd/apart"]);
    assert_eq!(names(&rig.driver), ["rbd/foo", "named", "bar", "foo", "apart"]);
    assert_eq!(rig.world.look().bindings.len(), 2, "what is at home needs none");
    let mounted = rig.driver.mount("foo", "x", None, &|| true).unwrap();
    assert_eq!(mounted.to_str(), Some("/m/p1/rbd/@tenant/foo"));
    assert_eq!(rig.driver.get("rbd/tenant/foo").unwrap().status["mounts"], 1);
    assert_eq!(kind(create(&rig.driver, "foo", &[("namespace", "other")])), ErrorKind::AlreadyExists);
    rig.check();
}

#[test]
fn options_of_mkfs_are_for_their_filesystem_only() {
    let rig = Rig::new(Removal::Delete).set(|settings| {
        settings.block.mkfs_options = vec!["-O".to_owned(), "mmp".to_owned()];
        settings.block.mount_options = Some("noatime".to_owned());
    });
    create(&rig.driver, "plain", &[]).unwrap();
    create(&rig.driver, "same", &[("fstype", "ext4")]).unwrap();
    create(&rig.driver, "xfs", &[("fstype", "xfs"), ("size", "512M")]).unwrap();
    create(&rig.driver, "own", &[("mkfs-options", "-q"), ("mount-options", "discard")]).unwrap();
    // As it is first mounted.
    rig.world.look().images.insert(spec("blank"), Image { size: Size::mib(64), data: Data::Untouched });
    rig.driver.mount("blank", "x", None, &|| true).unwrap();
    let kept = |image: &str| {
        let options = rig.world.look().records[&spec(image)].options.clone();
        (options.mkfs_options.join(" "), options.mount_options.unwrap_or_default())
    };
    let of = |mkfs: &str, mount: &str| (mkfs.to_owned(), mount.to_owned());
    assert_eq!(kept("plain"), of("-O mmp", "noatime"));
    assert_eq!(kept("same"), of("-O mmp", "noatime"));
    assert_eq!(kept("xfs"), of("", "noatime"));
    assert_eq!(kept("own"), of("-q", "discard"));
    assert_eq!(kept("blank"), of("-O mmp", "noatime"));
    create(&rig.driver, "plain", &[("fstype", "ext4")]).unwrap();
    assert_eq!(rig.world.look().records[&spec("xfs")].options.fstype, Some(FsKind::Xfs));
}
