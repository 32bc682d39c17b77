//! What an image's own objects say, read with the class methods that librbd and the kernel use themselves: two round trips, where
//! opening an image takes a dozen. Their encodings cannot change without breaking every kernel that maps images.
//!
//! Metadata is written the same way: `rbd_metadata_set` asks for the image's exclusive lock first, which a mapping with
//! `lock=exclusive` never lends (EROFS, measured); the class method does not, and harms nobody, because nothing but this plugin reads our keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::ceph::{ClassCall, IoCtx, features};
use crate::model::error::{CallError, DriverError, Result};
use crate::model::record::{Record, Stage};
use crate::model::size::Size;
use crate::model::stored::{self, Document, Unknown};

/// The image itself, not a snapshot of it (CEPH_NOSNAP).
const HEAD: u64 = u64::MAX - 1;
/// Our key in an image's metadata; `rbd image-meta list` shows it.
const RECORD: &str = "rbd-docker-plugin.record";

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) size: Size,
    pub(super) object_size: Size,
    pub(super) features: u64,
    /// Size of a stripe's part and number of objects that it goes over, where that is not one whole object.
    pub(super) striping: Option<(u64, u64)>,
    /// The id of the pool that holds the data, when it is another one.
    pub(super) data_pool: Option<i64>,
    pub(super) created: SystemTime,
    pub(super) record: Option<Stored>,
    /// What is wrong with the record: then nothing is known of what this image may be used for.
    pub(super) damage: Option<DriverError>,
}

/// Our record as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(flatten)]
    pub(super) record: Record,
    /// The image that it was written for: a clone is given a copy.
    pub(super) image: String,
    /// Whether the image is being removed, and its data may be gone in part.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) removing: bool,
}

impl Document for Stored {
    fn unknown(&self) -> Option<&Unknown> {
        self.record.unknown()
    }

    fn keep(&mut self, unknown: Unknown) {
        self.record.keep(unknown);
    }
}

/// The id of an image by its name; nothing when there is none.
pub(super) fn id(io: &IoCtx, image: &str) -> Result<Option<String>, CallError> {
    match io.exec(&format!("rbd_id.{image}"), "rbd", "get_id", &[]) {
        Ok(answer) => understand_id(image, &answer).map(Some),
        Err(e) if e.errno == Errno::ENOENT => Ok(None),
        Err(e) => Err(e),
    }
}

/// The id that the pool's directory has for a name; nothing when it has none. An image that is whole has both.
pub(super) fn listed_id(io: &IoCtx, image: &str) -> Result<Option<String>, CallError> {
    match io.exec("rbd_directory", "rbd", "dir_get_id", &string(image.as_bytes())) {
        Ok(answer) => understand_id(image, &answer).map(Some),
        Err(e) if e.errno == Errno::ENOENT => Ok(None),
        Err(e) => Err(e),
    }
}

/// The id of the pool of an image's data, where the image says one.
pub(super) fn data_pool(io: &IoCtx, image: &str) -> Result<Option<i64>> {
    let answer = io.exec(&object(image), "rbd", "get_data_pool", &[])?;
    let pool = Decoder(&answer).u64().ok_or_else(|| damaged(image, "get_data_pool"))?.cast_signed();
    Ok((pool >= 0).then_some(pool))
}

/// What `get_id` has answered. What is no id is damage, and not the word that there is no image.
pub(super) fn understand_id(image: &str, answer: &[u8]) -> Result<String, CallError> {
    let is_id = |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic());
    let damaged = || CallError::new("get_id", format!("rbd_id.{image}"), Errno::EBADMSG);
    Decoder(answer).string().filter(is_id).ok_or_else(damaged)
}

/// The object of an image's header.
pub(super) fn object(id: &str) -> String {
    format!("rbd_header.{id}")
}

/// The header of an image; nothing when it is gone.
pub(super) fn read(io: &IoCtx, id: &str) -> Result<Option<Header>> {
    let head = HEAD.to_le_bytes();
    let key = string(RECORD.as_bytes());
    let call = |method, input| ClassCall { class: "rbd", method, input };
    let calls = [
        call("get_size", &head[..]),
        call("get_features", &head[..]),
        call("metadata_get", &key[..]),
        call("get_create_timestamp", &[]),
        call("get_stripe_unit_count", &[]),
        call("get_data_pool", &[]),
    ];
    match io.exec_many(&object(id), &calls) {
        Err(e) if e.errno == Errno::ENOENT => Ok(None),
        answers => understand(id, &answers?),
    }
}

/// What the methods have answered.
pub(super) fn understand(id: &str, answers: &[Result<Vec<u8>, Errno>]) -> Result<Option<Header>> {
    let [size, features, record, created, striping, data_pool] = answers else {
        return Err(damaged(id, "get_size").into());
    };
    if matches!(size, Err(Errno::ENOENT)) {
        return Ok(None);
    }
    let size = size.as_ref().map_err(|errno| failed(id, "get_size", *errno))?;
    let mut fields = Decoder(size);
    let (order, size) = fields
        .u8()
        .zip(fields.u64())
        .filter(|(order, _)| *order < 64)
        .ok_or_else(|| damaged(id, "get_size"))?;
    let features = features.as_ref().map_err(|errno| failed(id, "get_features", *errno))?;
    let features = Decoder(features).u64().ok_or_else(|| damaged(id, "get_features"))?;
    let (record, damage) = match record {
        Ok(answer) => match understand_record(id, answer) {
            Ok(record) => (record, None),
            Err(damage) => (None, Some(damage)),
        },
        Err(Errno::ENOENT) => (None, None),
        Err(errno) => return Err(failed(id, "metadata_get", *errno).into()),
    };
    // Not in every image: those of before Mimic have none.
    let created = match created {
        Ok(answer) => {
            let mut fields = Decoder(answer);
            let time = fields.u32().zip(fields.u32()).ok_or_else(|| damaged(id, "get_create_timestamp"))?;
            UNIX_EPOCH + Duration::new(u64::from(time.0), time.1.min(999_999_999))
        }
        Err(_) => UNIX_EPOCH,
    };
    let has = |feature: u64| features & feature != 0;
    let striping = match striping {
        _ if !has(features::STRIPING) => None,
        Ok(answer) => {
            let mut fields = Decoder(answer);
            let both = fields.u64().zip(fields.u64()).filter(|(unit, count)| *unit > 0 && *count > 0);
            Some(both.ok_or_else(|| damaged(id, "get_stripe_unit_count"))?)
        }
        Err(errno) => return Err(failed(id, "get_stripe_unit_count", *errno).into()),
    };
    let data_pool = match data_pool {
        _ if !has(features::DATA_POOL) => None,
        Ok(answer) => {
            let pool = Decoder(answer).u64().ok_or_else(|| damaged(id, "get_data_pool"))?;
            Some(pool.cast_signed())
        }
        Err(errno) => return Err(failed(id, "get_data_pool", *errno).into()),
    };
    Ok(Some(Header {
        size: Size::bytes(size),
        object_size: Size::bytes(1 << order),
        features,
        striping,
        data_pool,
        created,
        record,
        damage,
    }))
}

fn understand_record(id: &str, answer: &[u8]) -> Result<Option<Stored>> {
    let text = Decoder(answer).string().ok_or_else(|| damaged(id, "metadata_get"))?;
    parse_record(&text, id)
}

/// The records of many images, so many of them asked at a time: a part of what [`read`] reads. The outer nothing means that there is no header.
/// After one that does not answer no further image is asked.
pub(super) fn records(
    io: &IoCtx,
    ids: &[&str],
    at_once: usize,
    mut each: impl FnMut(&str, Result<Option<Option<Stored>>>),
) {
    let head = HEAD.to_le_bytes();
    let key = string(RECORD.as_bytes());
    let call = |method, input| ClassCall { class: "rbd", method, input };
    let calls = [call("get_size", &head[..]), call("metadata_get", &key[..])];
    let mut next = ids.iter();
    io.exec_on_each(ids.iter().map(|id| object(id)), &calls, at_once, |answers| {
        let Some(id) = next.next() else { return };
        each(
            id,
            match answers.as_deref() {
                Err(e) if e.errno == Errno::ENOENT => Ok(None),
                Err(e) => Err(e.clone().into()),
                Ok([Err(Errno::ENOENT), _]) => Ok(None),
                Ok([Ok(_), Err(Errno::ENOENT)]) => Ok(Some(None)),
                Ok([Ok(_), Ok(record)]) => understand_record(id, record).map(Some),
                Ok(_) => Err(damaged(id, "get_size").into()),
            },
        );
    });
}

/// A clone inherits the record of a volume that was ready: its options hold, but the image is not of our making. Any other record
/// means nothing on another image.
pub(super) fn parse_record(text: &str, id: &str) -> Result<Option<Stored>> {
    let mut stored: Stored = stored::read(text.as_bytes()).map_err(|e| {
        e.of(&format!("the record in the metadata of image {id}"), || {
            format!("to use the image as one that somebody else made: rbd image-meta remove IMAGE {RECORD}")
        })
    })?;
    if stored.image == id {
        return Ok(Some(stored));
    }
    if stored.record.stage != Stage::Ready || stored.removing {
        return Ok(None);
    }
    stored.record.adopted = true;
    stored.record.options.size = None;
    id.clone_into(&mut stored.image);
    Ok(Some(stored))
}

/// Replaces our record of an image.
pub(super) fn write_record(io: &IoCtx, id: &str, stored: &Stored) -> Result<(), CallError> {
    let value = stored::write(stored);
    let mut input = 1u32.to_le_bytes().to_vec();
    input.extend(string(RECORD.as_bytes()));
    input.extend(string(&value));
    io.exec(&object(id), "rbd", "metadata_set", &input).map(drop)
}

/// The image of a snapshot that an image was cloned from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) pool: i64,
    pub(super) namespace: String,
    pub(super) image: String,
}

/// What an image was cloned from; nothing when it is no clone.
pub(super) fn parent(io: &IoCtx, id: &str) -> Result<Option<Parent>, CallError> {
    let answer = io.exec(&object(id), "rbd", "parent_get", &[])?;
    let parent = understand_parent(&answer).ok_or_else(|| damaged(id, "parent_get"))?;
    Ok(Some(parent).filter(|parent| parent.pool >= 0 && !parent.image.is_empty()))
}

/// Version, oldest reader, length; then pool, namespace, image, snapshot.
fn understand_parent(answer: &[u8]) -> Option<Parent> {
    let mut fields = Decoder(answer);
    fields.take::<6>()?;
    let pool = i64::from_le_bytes(fields.take()?);
    Some(Parent { pool, namespace: fields.string()?, image: fields.string()? })
}

fn failed(id: &str, method: &'static str, errno: Errno) -> CallError {
    CallError::new(method, object(id), errno)
}

fn damaged(id: &str, method: &'static str) -> CallError {
    failed(id, method, Errno::EBADMSG)
}

/// As Ceph encodes strings and buffers: length, then bytes.
fn string(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    encoded.extend(bytes);
    encoded
}

/// Takes little-endian fields off the front; `None` when there is too little.
struct Decoder<'a>(&'a [u8]);

impl Decoder<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    #[test]
    fn fields_come_off_the_front_and_too_little_is_nothing() {
        let mut decoder = Decoder(&[22, 0, 0, 0, 64, 0, 0, 0, 0]);
        assert_eq!((decoder.u8(), decoder.u64()), (Some(22), Some(64 << 24)));
        assert_eq!(decoder.u8(), None);
        assert_eq!(Decoder(&string(b"abc")).string().as_deref(), Some("abc"));
        assert_eq!(Decoder(&[200, 0, 0, 0, 1]).string(), None);
    }

    #[test]
    fn a_parent_is_a_pool_a_namespace_and_an_id() {
        let mut answer = vec![1, 1, 0, 0, 0, 0];
        answer.extend(7_i64.to_le_bytes());
        answer.extend(string(b"ns"));
        answer.extend(string(b"10ab"));
        answer.extend(3_u64.to_le_bytes());
        let parent = Parent { pool: 7, namespace: "ns".to_owned(), image: "10ab".to_owned() };
        assert_eq!(understand_parent(&answer), Some(parent));
        assert_eq!(understand_parent(&answer[..20]), None);
    }

    fn stored(text: &str, id: &str) -> Option<Stored> {
        parse_record(text, id).unwrap()
    }

    #[test]
    fn a_record_means_its_own_image_and_a_clone_only_inherits_options() {
        let ready =
            r#"{"state":"ready","created":1,"options":{"size":64,"mount-options":"noatime"},"image":"a1"}"#;
        let own = stored(ready, "a1").unwrap();
        assert!(!own.record.adopted);
        let clone = stored(ready, "b2").unwrap();
        assert!(clone.record.adopted, "a clone is not of our making");
        assert_eq!(clone.record.options.mount_options.as_deref(), Some("noatime"));
        assert_eq!(clone.record.options.size, None);
        for unusable in [
            r#"{"state":"creating","created":1,"image":"a1"}"#,
            r#"{"state":"ready","created":1,"image":"a1","removing":true}"#,
        ] {
            assert!(stored(unusable, "a1").is_some());
            assert!(stored(unusable, "b2").is_none(), "{unusable}");
        }
        assert!(parse_record("{", "a1").unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn an_answer_that_is_no_id_is_damage_and_not_the_word_that_there_is_no_image() {
        assert_eq!(understand_id("a", &string(b"10ab")).unwrap(), "10ab");
        for damage in [&b""[..], &[4, 0, 0, 0, b'1'], &[0, 0, 0, 0], &string(b"\xff\xfe"), &string(b"a\n")] {
            let e = understand_id("a", damage).unwrap_err();
            assert_eq!((e.errno, e.object.as_str()), (Errno::EBADMSG, "rbd_id.a"), "{damage:?}");
        }
    }

    #[test]
    fn a_header_says_what_the_image_is_and_damage_is_no_absence() {
        let number = |n: u64| Ok(n.to_le_bytes().to_vec());
        let both = |a: u64, b: u64| Ok([a.to_le_bytes(), b.to_le_bytes()].concat());
        let size = || Ok([vec![22], (64_u64 << 20).to_le_bytes().to_vec()].concat());
        let bits = features::LAYERING | features::STRIPING | features::DATA_POOL;
        let none = || Err(Errno::ENOENT);
        let whole = [size(), number(bits), none(), none(), both(65536, 4), number(7)];
        let header = understand("1", &whole).unwrap().unwrap();
        assert_eq!((header.striping, header.data_pool), (Some((65536, 4)), Some(7)));
        let plain =
            [size(), number(features::LAYERING), none(), none(), Err(Errno::ENOEXEC), number(u64::MAX)];
        let header = understand("1", &plain).unwrap().unwrap();
        assert_eq!((header.striping, header.data_pool), (None, None));
        assert!(header.record.is_none() && header.damage.is_none());
        for at in [0, 1, 3, 4, 5] {
            let mut short = whole.clone();
            short[at] = Ok(vec![1, 2, 3]);
            let e = understand("1", &short).unwrap_err();
            assert_eq!(e.source.unwrap().errno, Errno::EBADMSG, "answer {at}");
        }
        // What Mount may do with the image is in the record: that it cannot be read is not that it is not there.
        for record in [Ok(vec![9, 0, 0, 0]), Ok(string(b"{"))] {
            let mut damaged = whole.clone();
            damaged[2] = record;
            let header = understand("1", &damaged).unwrap().unwrap();
            assert!(header.record.is_none() && header.damage.is_some());
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Decoder(&bytes).string();
            let mut decoder = Decoder(&bytes);
            let _ = (decoder.u8(), decoder.u64(), decoder.u32());
        }
    }
}
