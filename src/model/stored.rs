//! Documents that are stored: JSON with a version, read by plugins of several versions at the same time.
//!
//! Every document has two fields beside its own: `v`, the version of its format, and `requires`, words for what its reader has to
//! understand. A reader refuses a document of a newer format and one that requires what it does not know: whoever acts on half of what
//! a record says may do harm. All else that it does not know it keeps: what a newer version has written beside stays in the document
//! when an older one writes it anew. Documents of before there were versions have neither field, and count as version 0.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::model::error::{DriverError, ErrorKind};

/// The fields of a document that this version does not know, as they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unknown(Map<String, Value>);

/// What is stored.
pub trait Document: Serialize + DeserializeOwned {
    /// The newest version of its format that is understood, and the one that is written.
    const VERSION: u64 = 1;
    /// What `requires` may name.
    const UNDERSTOOD: &'static [&'static str] = &[];

    /// Looks whether the documents within it are understood: with [`check`].
    fn check_within(_fields: &Value) -> Result<(), NotUnderstood> {
        Ok(())
    }

    /// The fields that are kept for others. A document that nobody else writes has none.
    fn unknown(&self) -> Option<&Unknown> {
        None
    }

    /// Takes the fields that are not known.
    fn keep(&mut self, _unknown: Unknown) {}
}

/// Why a document is not understood.
#[derive(Debug)]
pub enum NotUnderstood {
    /// It is none.
    Damaged(serde_json::Error),
    /// It is of a newer format.
    Version {
        /// Its version.
        found: u64,
        /// The newest that is understood.
        newest: u64,
    },
    /// It requires what this version does not have.
    Requires(Vec<String>),
}

impl NotUnderstood {
    /// The error of a document that is called `what`: `the record of rbd/foo`. `hint` is for one that is damaged.
    pub fn of(self, what: &str, hint: impl FnOnce() -> String) -> DriverError {
        let error = DriverError::new(ErrorKind::Failed, format!("{what} {self}"));
        match self {
            Self::Damaged(_) => error.hint(hint()),
            Self::Version { .. } | Self::Requires(_) => error.hint(
                "it was written by a newer version of the plugin: install that version on this host, too",
            ),
        }
    }
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(e) => write!(f, "is damaged: {e}"),
            Self::Version { found, newest } => {
                write!(f, "is of version {found}; this plugin understands versions up to {newest}")
            }
            Self::Requires(words) => {
                write!(f, "requires what this version of the plugin does not have: {}", words.join(", "))
            }
        }
    }
}

/// A document as it was stored.
pub fn read<T: Document>(raw: &[u8]) -> Result<T, NotUnderstood> {
    from_value(serde_json::from_slice(raw).map_err(NotUnderstood::Damaged)?)
}

/// Whether a document may be read at all.
pub fn check<T: Document>(value: &Value) -> Result<(), NotUnderstood> {
    /// What is read first: in a newer format all else may look different.
    #[derive(Deserialize)]
    struct Heading {
        #[serde(default)]
        v: u64,
        #[serde(default)]
        requires: Vec<String>,
    }
    let Heading { v, requires } = Heading::deserialize(value).map_err(NotUnderstood::Damaged)?;
    understood((v, requires), (T::VERSION, T::UNDERSTOOD))?;
    T::check_within(value)
}

/// Whether what a document has as `v` and `requires` is understood by a reader of a version and some words.
pub fn understood(
    (v, mut requires): (u64, Vec<String>),
    (newest, words): (u64, &[&str]),
) -> Result<(), NotUnderstood> {
    if v > newest {
        return Err(NotUnderstood::Version { found: v, newest });
    }
    requires.retain(|word| !words.contains(&word.as_str()));
    if requires.is_empty() { Ok(()) } else { Err(NotUnderstood::Requires(requires)) }
}

/// The same as [`read`], of JSON that was read already.
pub fn from_value<T: Document>(value: Value) -> Result<T, NotUnderstood> {
    check::<T>(&value)?;
    let mut document = T::deserialize(&value).map_err(NotUnderstood::Damaged)?;
    if let Value::Object(mut fields) = value {
        fields.remove("v");
        fields.remove("requires");
        if let Ok(Value::Object(known)) = serde_json::to_value(&document) {
            subtract(&mut fields, &known);
        }
        document.keep(Unknown(fields));
    }
    Ok(document)
}

/// A document as it is stored.
pub fn write<T: Document>(document: &T) -> Vec<u8> {
    serde_json::to_vec(&to_value(document)).unwrap_or_default()
}

/// The same, for files that people may read.
pub fn write_pretty<T: Document>(document: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(&to_value(document)).unwrap_or_default()
}

fn to_value<T: Document>(document: &T) -> Value {
    let mut value = serde_json::to_value(document).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        if let Some(Unknown(kept)) = document.unknown() {
            add(fields, kept);
        }
        fields.insert("v".to_owned(), T::VERSION.into());
        // A document that requires something has a field `requires` of its own.
        fields.entry("requires").or_insert_with(|| Value::Array(Vec::new()));
    }
    value
}

/// Takes away what is known, in objects within objects, too.
fn subtract(fields: &mut Map<String, Value>, known: &Map<String, Value>) {
    fields.retain(|key, value| match (value, known.get(key)) {
        (_, None) => true,
        (Value::Object(inner), Some(Value::Object(known))) => {
            subtract(inner, known);
            !inner.is_empty()
        }
        (_, Some(_)) => false,
    });
}

/// Adds what was taken away. What is known now wins.
fn add(fields: &mut Map<String, Value>, kept: &Map<String, Value>) {
    for (key, value) in kept {
        match (fields.get_mut(key), value) {
            (None, value) => drop(fields.insert(key.clone(), value.clone())),
            (Some(Value::Object(inner)), Value::Object(kept)) => add(inner, kept),
            (Some(_), _) => {}
        }
    }
}

/// A document within a document: for `#[serde(with)]`, beside [`Document::check_within`].
pub mod within {
    use super::{Deserialize, Deserializer, Document, Serialize, Serializer, Value, from_value, to_value};

    /// See [`super::to_value`].
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Document, S: Serializer>(inner: &Option<T>, out: S) -> Result<S::Ok, S::Error> {
        inner.as_ref().map(to_value).serialize(out)
    }

    /// See [`super::from_value`].
    ///
    /// # Errors
    /// What is not understood.
    pub fn deserialize<'a, T: Document, D: Deserializer<'a>>(input: D) -> Result<Option<T>, D::Error> {
        let inner = Option::<Value>::deserialize(input)?;
        inner.map(from_value).transpose().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Inner {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u32>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Outer {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
        #[serde(default)]
        inner: Inner,
        #[serde(default, with = "within", skip_serializing_if = "Option::is_none")]
        making: Option<Box<Outer>>,
        #[serde(skip)]
        unknown: Unknown,
    }

    impl Document for Outer {
        const VERSION: u64 = 2;
        const UNDERSTOOD: &'static [&'static str] = &["wings"];

        fn check_within(fields: &Value) -> Result<(), NotUnderstood> {
            fields.get("making").map_or(Ok(()), check::<Box<Self>>)
        }

        fn unknown(&self) -> Option<&Unknown> {
            Some(&self.unknown)
        }

        fn keep(&mut self, unknown: Unknown) {
            self.unknown = unknown;
        }
    }

    impl Document for Box<Outer> {
        const VERSION: u64 = 2;

        fn unknown(&self) -> Option<&Unknown> {
            Some(&self.unknown)
        }

        fn keep(&mut self, unknown: Unknown) {
            self.unknown = unknown;
        }
    }

    fn rewritten(raw: &str, change: impl FnOnce(&mut Outer)) -> Value {
        let mut outer: Outer = read(raw.as_bytes()).unwrap();
        change(&mut outer);
        serde_json::from_slice(&write(&outer)).unwrap()
    }

    #[test]
    fn what_is_not_known_stays_wherever_it_is() {
        let raw = r#"{"name":"a","address":"x","colour":"red","inner":{"size":1,"weight":[2]},
            "making":{"name":"b","wings":{"left":1},"inner":{"height":3}}}"#;
        let after = rewritten(raw, |outer| {
            outer.name = "c".to_owned();
            outer.address = None;
            outer.inner.size = None;
        });
        let expected = serde_json::json!({
            "v": 2, "requires": [], "name": "c", "colour": "red", "inner": {"weight": [2]},
            "making": {"v": 2, "requires": [], "name": "b", "wings": {"left": 1}, "inner": {"height": 3}},
        });
        assert_eq!(after, expected);
        let again = rewritten(&after.to_string(), |_| {});
        assert_eq!(again, expected, "what was written once is written the same again");
    }

    #[test]
    fn a_document_of_before_there_were_versions_is_read() {
        let outer: Outer = read(br#"{"name":"a"}"#).unwrap();
        assert_eq!(outer, Outer { name: "a".to_owned(), ..Outer::default() });
    }

    #[test]
    fn what_must_be_understood_and_is_not_is_refused() {
        for (raw, why) in [
            (r#"{"v":3,"name":7}"#, "is of version 3; this plugin understands versions up to 2"),
            (
                r#"{"v":2,"requires":["wings","fins","gills"],"name":"a"}"#,
                "requires what this version of the plugin does not have: fins, gills",
            ),
            (r#"{"v":2,"name":7}"#, "is damaged: invalid type"),
            (r#"{"v":"two","name":"a"}"#, "is damaged: invalid type"),
            (r#"{"v":2,"requires":"wings","name":"a"}"#, "is damaged: invalid type"),
            (r#"{"name":"a","making":{"v":9,"name":"b"}}"#, "is of version 9; "),
            (r#"{"name":"a""#, "is damaged: EOF"),
            ("7", "is damaged: invalid type"),
        ] {
            let e = read::<Outer>(raw.as_bytes()).unwrap_err().to_string();
            assert!(e.starts_with(why), "{raw}: {e}");
        }
        assert!(read::<Outer>(br#"{"v":2,"requires":["wings"],"name":"a"}"#).is_ok());
    }

    #[test]
    fn only_what_is_damaged_may_be_removed() {
        let hint = |raw: &[u8]| {
            let e = read::<Outer>(raw).unwrap_err().of("the record", || "remove it".to_owned());
            e.hint.unwrap()
        };
        assert_eq!(hint(b"{"), "remove it");
        assert!(hint(br#"{"v":9}"#).contains("newer version"));
        assert!(hint(br#"{"requires":["fins"]}"#).contains("newer version"));
    }
}
