//! Volume names and image specs.
//!
//! A volume name is `[pool/[namespace/]]image[@size]`, each part made of letters, digits, `-`, `_` and `.`, the grammar of
//! rbd-docker-plugin 2.0.1 plus the RADOS namespace. `foo`, `rbd/foo` and `foo@1024` are three spellings of one
//! image: the size only says how large to make it when it does not exist. `.` and `..` are no parts: names become paths.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::error::{DriverError, Result};
use crate::model::size::Size;

/// The longest spec: with its slashes replaced it names a file of at most 255 bytes.
const SPEC_MAX: usize = 240;

/// Where an image is: `pool/image` or `pool/namespace/image`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageSpec {
    pool: String,
    namespace: Option<String>,
    image: String,
}

/// What Docker calls a volume, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeName {
    pool: Option<String>,
    namespace: Option<String>,
    image: String,
    size: Option<Size>,
}

/// Whether `part` may be a pool, a namespace or an image.
pub fn check_part(what: &str, part: &str) -> Result<()> {
    let why = if part.is_empty() {
        "it is empty"
    } else if part == "." || part == ".." {
        "it is a path, not a name"
    } else if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        "only letters, digits, '-', '_' and '.' are allowed"
    } else {
        return Ok(());
    };
    Err(DriverError::invalid(format!("invalid {what} {part:?}: {why}")))
}

impl ImageSpec {
    /// An image in a pool, and in a namespace of it when one is given.
    pub fn new(pool: &str, namespace: Option<&str>, image: &str) -> Result<Self> {
        check_part("pool name", pool)?;
        if let Some(namespace) = namespace {
            check_part("namespace name", namespace)?;
        }
        check_part("image name", image)?;
        let spec =
            Self { pool: pool.to_owned(), namespace: namespace.map(str::to_owned), image: image.to_owned() };
        if spec.to_string().len() > SPEC_MAX {
            return Err(DriverError::invalid(format!(
                "invalid image name {image:?}: longer than {SPEC_MAX} bytes with its pool"
            )));
        }
        Ok(spec)
    }

    /// The pool.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The RADOS namespace, if any.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The image.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The folder of its files below a root: `pool`, or `pool/@namespace`. No name holds an `@`, so a namespace never
    /// collides with an image.
    pub fn folder(&self) -> PathBuf {
        let mut folder = PathBuf::from(&self.pool);
        if let Some(namespace) = &self.namespace {
            folder.push(format!("@{namespace}"));
        }
        folder
    }

    /// Its place below a root: [`folder`](Self::folder) and image.
    pub fn place(&self) -> PathBuf {
        self.folder().join(&self.image)
    }

    /// The inverse of [`place`](Self::place).
    pub fn from_place(place: &Path) -> Option<Self> {
        let parts: Option<Vec<&str>> = place.components().map(|c| c.as_os_str().to_str()).collect();
        match parts?[..] {
            [pool, image] => Self::new(pool, None, image).ok(),
            [pool, namespace, image] => Self::new(pool, Some(namespace.strip_prefix('@')?), image).ok(),
            _ => None,
        }
    }

    /// Itself as one file name: no name holds an `@`.
    pub fn file_name(&self) -> String {
        self.to_string().replace('/', "@")
    }

    /// The inverse of [`file_name`](Self::file_name).
    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::try_from(name.replace('@', "/")).ok()
    }

    /// The same place with another image name.
    pub fn with_image(&self, image: &str) -> Result<Self> {
        Self::new(&self.pool, self.namespace(), image)
    }
}

impl fmt::Display for ImageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.pool)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.image)
    }
}

impl TryFrom<String> for ImageSpec {
    type Error = DriverError;

    fn try_from(text: String) -> Result<Self> {
        match text.parse::<VolumeName>()? {
            VolumeName { pool: Some(pool), namespace, image, size: None } => {
                Ok(Self { pool, namespace, image })
            }
            _ => Err(DriverError::invalid(format!("{text:?} is not an image spec pool/[namespace/]image"))),
        }
    }
}

impl From<ImageSpec> for String {
    fn from(spec: ImageSpec) -> Self {
        spec.to_string()
    }
}

impl VolumeName {
    /// The image part, the name that `-o pool=` can bind to another pool.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The pool, when the name says one.
    pub fn pool(&self) -> Option<&str> {
        self.pool.as_deref()
    }

    /// The size to create it with, when the name says one.
    pub fn size(&self) -> Option<Size> {
        self.size
    }

    /// The image it means when a bare name is in this pool and namespace.
    pub fn in_place(&self, pool: &str, namespace: Option<&str>) -> Result<ImageSpec> {
        match &self.pool {
            Some(own) => self.in_pool(own),
            None => ImageSpec::new(pool, namespace, &self.image),
        }
    }

    /// The image it means when a bare name is in `default_pool`.
    pub fn in_pool(&self, default_pool: &str) -> Result<ImageSpec> {
        ImageSpec::new(self.pool().unwrap_or(default_pool), self.namespace.as_deref(), &self.image)
    }
}

impl FromStr for VolumeName {
    type Err = DriverError;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: DriverError| {
            DriverError::invalid(format!("Unable to parse image name: {text:?}: {}", why.message))
                .hint("a volume name is [pool/[namespace/]]image[@size in MiB]")
        };
        let (path, size) = match text.split_once('@') {
            Some((path, size)) => (path, Some(size)),
            None => (text, None),
        };
        let size = match size {
            Some(digits) if !digits.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(bad(DriverError::invalid("the size after '@' is a whole number of MiB")));
            }
            Some(digits) => Some(digits.parse::<Size>().map_err(bad)?),
            None => None,
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (pool, namespace, image) = match parts[..] {
            [image] => (None, None, image),
            [pool, image] => (Some(pool), None, image),
            [pool, namespace, image] => (Some(pool), Some(namespace), image),
            _ => return Err(bad(DriverError::invalid("more than two '/'"))),
        };
        let spec = ImageSpec::new(pool.unwrap_or("-"), namespace, image).map_err(bad)?;
        Ok(Self { pool: pool.map(str::to_owned), namespace: spec.namespace, image: spec.image, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert_eq, proptest};

    fn spec_of(name: &str) -> String {
        name.parse::<VolumeName>().unwrap().in_pool("rbd").unwrap().to_string()
    }

    #[test]
    fn old_grammar_and_namespaces() {
        for (name, spec, mib) in [
            ("foo", "rbd/foo", None),
            ("es-data1_v2.3", "rbd/es-data1_v2.3", None),
            ("liverpool/foo", "liverpool/foo", None),
            ("liverpool/foo@1024", "liverpool/foo", Some(1024)),
            ("foo@1024", "rbd/foo", Some(1024)),
            ("pool/ns/foo@7", "pool/ns/foo", Some(7)),
        ] {
            let parsed: VolumeName = name.parse().unwrap();
            assert_eq!(spec_of(name), spec);
            assert_eq!(parsed.size(), mib.map(Size::mib));
        }
    }

    #[test]
    fn spellings_of_one_image_are_equal() {
        assert_eq!(spec_of("foo"), spec_of("rbd/foo"));
        assert_eq!(spec_of("foo"), spec_of("foo@1024"));
        assert_ne!(spec_of("foo"), spec_of("p2/foo"));
    }

    #[test]
    fn nonsense_and_path_escapes_are_errors() {
        for name in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "a/b/c/d",
            "..",
            ".",
            "../a",
            "a/..",
            "a b",
            "a@",
            "a@x",
            "a@1G",
            "a@0",
            "é",
            "a\n",
            "a@99999999999999999999",
            "a@1@2",
            "\0",
        ] {
            let e = name.parse::<VolumeName>().unwrap_err();
            assert!(e.to_string().starts_with("Unable to parse image name: "), "{name:?}: {e}");
            assert!(e.to_string().contains("a volume name is"), "{name:?}: {e}");
        }
        assert!(ImageSpec::new("rbd", None, &"a".repeat(237)).is_err());
        assert!("a".repeat(241).parse::<VolumeName>().is_err());
    }

    proptest! {
        #[test]
        fn a_spec_reads_back(pool in "[a-z0-9_-]{1,9}", ns in proptest::option::of("[a-z0-9_-]{1,9}"), image in "[a-z0-9_-]{1,9}") {
            let spec = ImageSpec::new(&pool, ns.as_deref(), &image).unwrap();
            prop_assert_eq!(ImageSpec::try_from(spec.to_string()).unwrap(), spec.clone());
            prop_assert_eq!(ImageSpec::from_file_name(&spec.file_name()).unwrap(), spec.clone());
            prop_assert_eq!(ImageSpec::from_place(&spec.place()).unwrap(), spec);
        }

        #[test]
        fn parsing_never_panics_and_never_leaves_the_root(text in ".*") {
            if let Ok(name) = text.parse::<VolumeName>() {
                let path = std::path::PathBuf::from(name.in_pool("rbd").unwrap_or_else(|_| name.in_pool("p").unwrap()).to_string());
                assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
