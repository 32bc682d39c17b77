//! What could not be seen is told, and changes nothing: it is never taken for "nothing is there".

use nix::errno::Errno as E;
use rbd_docker_plugin::backend::sim::Data;
use rbd_docker_plugin::driver::api::VolumeDriver;
use rbd_docker_plugin::model::error::{CallError, DriverError, ErrorKind as K};
use rbd_docker_plugin::model::options::ImageOptions;
use rbd_docker_plugin::model::record::{Record, Stage};
use rbd_docker_plugin::model::settings::Removal;

use super::cases::{create, filesystem, foreign, kind};
use super::rig::{Rig, spec};

#[test]
fn a_half_made_image_that_cannot_be_looked_into_is_left_alone() {
    for (errno, as_kind, cleared) in [
        (E::EUCLEAN, K::NeedsRepair, true),
        (E::EBADMSG, K::NeedsRepair, true),
        // With the checker's word, and without.
        (E::EINVAL, K::NeedsRepair, true),
        (E::EINVAL, K::Failed, false),
        (E::EINVAL, K::MissingTool, false),
        (E::ENODEV, K::MissingTool, false),
        (E::ENOMEM, K::Failed, false),
        (E::EIO, K::Unreachable, false),
        (E::EIO, K::NeedsRepair, false),
        (E::EROFS, K::Failed, false),
        (E::EMFILE, K::Failed, false),
    ] {
        let rig = Rig::new(Removal::Delete);
        let data = Data::Filesystem(filesystem("u1"), "an operator's".to_owned());
        foreign(&rig, "foo", data.clone());
        let stage = Stage::Formatting { uuid: "u1".to_owned() };
        let record = Record::new(stage, false, 0, ImageOptions::default());
        rig.world.look().records.insert(spec("foo"), record.clone());
        let call = CallError::new("mount", "/dev/sim0 on /m", errno);
        let refusal = DriverError::new(as_kind, "refused").caused_by(call);
        rig.world.look().refusal = Some(refusal.clone());
        let answer = create(&rig.driver, "foo", &[]);
        assert_eq!(answer.is_ok(), cleared, "{errno}, {as_kind:?}: {answer:?}");
        if cleared {
            rig.check();
            continue;
        }
        let e = answer.unwrap_err();
        assert_eq!(e.kind, as_kind);
        assert!(e.to_string().contains("cannot be seen whether rbd/foo"), "{e}");
        rig.world.look().refusal = Some(refusal);
        assert_eq!(kind(rig.driver.remove("foo")), as_kind);
        let state = rig.world.look();
        assert_eq!(state.images[&spec("foo")].data, data, "{errno}: left alone");
        assert_eq!(state.records[&spec("foo")], record);
        assert!(state.devices.is_empty() && state.mounts.is_empty() && state.owners.is_empty());
    }
}
