//! Request bodies, as Docker and Go's decoder understand them.
//!
//! Keys in any case, the last of two counts, `null` is the same as absent, unknown keys are ignored. The content
//! type says nothing: Docker sends none.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// The body of Create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// The volume.
    pub name: String,
    /// What `docker volume create -o` said.
    pub options: BTreeMap<String, String>,
}

/// The body of Mount and Unmount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// The volume.
    pub name: String,
    /// The mount ID; empty from a Docker before 1.12.
    pub id: String,
}

/// The body of Remove, Path and Get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRequest {
    /// The volume.
    pub name: String,
}

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// Nothing where a request should be.
    #[error(
        "the request has no body: after a transport error Docker sends a request again without its body; try again"
    )]
    Empty,
    /// Not a JSON object of the right form.
    #[error("bad request body: {0}")]
    Json(String),
    /// No volume is named.
    #[error("bad request body: it has no Name")]
    NoName,
}

/// Reads the body of Create.
pub fn parse_create(body: &[u8]) -> Result<CreateRequest, BadBody> {
    let body = parse(body)?;
    Ok(CreateRequest { name: body.name.ok_or(BadBody::NoName)?, options: body.options })
}

/// Reads the body of Mount or Unmount.
pub fn parse_mount(body: &[u8]) -> Result<MountRequest, BadBody> {
    let body = parse(body)?;
    Ok(MountRequest { name: body.name.ok_or(BadBody::NoName)?, id: body.id.unwrap_or_default() })
}

/// Reads the body of Remove, Path or Get.
pub fn parse_name(body: &[u8]) -> Result<NameRequest, BadBody> {
    Ok(NameRequest { name: parse(body)?.name.ok_or(BadBody::NoName)? })
}

fn parse(body: &[u8]) -> Result<Body, BadBody> {
    if body.trim_ascii().is_empty() {
        return Err(BadBody::Empty);
    }
    serde_json::from_slice(body).map_err(|e| BadBody::Json(e.to_string()))
}

#[derive(Debug, Default)]
struct Body {
    name: Option<String>,
    id: Option<String>,
    options: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let mut body = Body::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.to_ascii_lowercase().as_str() {
                "name" => body.name = map.next_value::<Option<String>>()?.or(body.name),
                "id" => body.id = map.next_value::<Option<String>>()?.or(body.id),
                "opts" => {
                    if let Some(options) = map.next_value::<Option<BTreeMap<String, OptionText>>>()? {
                        body.options.extend(options.into_iter().map(|(key, value)| (key, value.0)));
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(body)
    }
}

/// The value of an option. Docker sends strings; other clients send `"size": 64`.
struct OptionText(String);

impl<'de> Deserialize<'de> for OptionText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            Value::Bool(yes) => Ok(Self(yes.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                Err(serde::de::Error::custom("the value of an option is a string, a number or a boolean"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    #[test]
    fn names_as_go_reads_them() {
        for (body, name) in [
            (r#"{"Name":"a"}"#, "a"),
            (r#"{"name":"a"}"#, "a"),
            (r#" {"NAME":"a"} "#, "a"),
            (r#"{"Name":"a","Colour":{"deep":[1,2]}}"#, "a"),
            (r#"{"Name":"a","name":"b"}"#, "b"),
            (r#"{"Name":"a","name":null}"#, "a"),
            (r#"{"Name":""}"#, ""),
            (r#"{"Name":"\u00e9\n"}"#, "é\n"),
        ] {
            assert_eq!(parse_name(body.as_bytes()).unwrap().name, name, "{body}");
        }
    }

    #[test]
    fn options_and_ids() {
        let create =
            |body: &str| parse_create(body.as_bytes()).unwrap().options.into_iter().collect::<Vec<_>>();
        assert_eq!(create(r#"{"Name":"a"}"#), []);
        assert_eq!(create(r#"{"Name":"a","Opts":null}"#), []);
        let text = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            create(r#"{"Name":"a","opts":{"size":64,"fs":"xfs","ro":true}}"#),
            [text("fs", "xfs"), text("ro", "true"), text("size", "64")]
        );
        let id = |body: &str| parse_mount(body.as_bytes()).unwrap().id;
        assert_eq!(id(r#"{"Name":"a"}"#), "");
        assert_eq!(id(r#"{"Name":"a","ID":null}"#), "");
        assert_eq!(id(r#"{"Name":"a","Id":"x"}"#), "x");
    }

    #[test]
    fn what_is_refused() {
        for body in ["", " \r\n"] {
            assert_eq!(parse_mount(body.as_bytes()).unwrap_err(), BadBody::Empty);
        }
        for body in ["{}", r#"{"Name":null}"#, r#"{"ID":"x"}"#] {
            assert_eq!(parse_name(body.as_bytes()).unwrap_err(), BadBody::NoName, "{body}");
        }
        for body in [
            "{",
            "null",
            "[]",
            "\"a\"",
            "{} {}",
            r#"{"Name":1}"#,
            r#"{"Name":"a","Opts":[]}"#,
            "\u{0}",
            r#"{"Name":"a","Opts":{"a":null}}"#,
            r#"{"Name":"a","Opts":{"a":{}}}"#,
            r#"{"Name":"\ud800"}"#,
        ] {
            assert!(matches!(parse_create(body.as_bytes()), Err(BadBody::Json(_))), "{body}");
        }
        assert!(matches!(parse_name(b"{\"Name\":\"\xff\"}"), Err(BadBody::Json(_))));
        let deep = "[".repeat(100_000);
        assert!(matches!(parse_name(format!("{{\"x\":{deep}").as_bytes()), Err(BadBody::Json(_))));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(body in any::<Vec<u8>>()) {
            let _ = parse_create(&body);
        }
    }
}
