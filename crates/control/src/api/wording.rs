//! What a parser says, in the words of whoever wrote the request: which rule a field broke, with no type of Rust and
//! without the value, which may be a secret.

use keywheel_api::Problem;
use serde::de::IgnoredAny;

const WHOLE: &str = "a whole number, 0 or more";
const TIME: &str = "a time such as 2030-01-31T00:00:00Z, from the year 1 to the end of 9998";

/// A body that could not be read, and where the reader was.
pub(super) fn of_json(body: &[u8], field: &str, error: &serde_json::Error) -> Problem {
    if !error.is_data() && serde_json::from_slice::<IgnoredAny>(body).is_err() {
        let (line, column) = (error.line(), error.column());
        let why = if error.is_eof() { "it ends too early" } else { "it breaks JSON's rules" };
        return Problem::field(".", format!("a JSON document: {why}, at line {line}, column {column}"));
    }
    let said = error.to_string();
    // The position is of no use beside the field's name.
    of_field(field, said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said))
}

/// What is wrong within `within`, where it is known.
pub(super) fn of_field(within: &str, said: &str) -> Problem {
    let inside = |name: &str| match within {
        "." | "?" | "" => name.to_owned(),
        within => format!("{within}.{name}"),
    };
    if let Some(name) = quoted(said, "missing field `") {
        return Problem::field(inside(name), "it is missing");
    }
    if let Some(name) = quoted(said, "duplicate field `") {
        return Problem::field(inside(name), "given once; it is there twice");
    }
    Problem::field(within, rule(said))
}

fn quoted<'a>(said: &'a str, before: &str) -> Option<&'a str> {
    said.strip_prefix(before)?.split('`').next()
}

fn rule(said: &str) -> String {
    let expected = |kind: &str| said.strip_prefix(kind).and_then(|rest| rest.rsplit_once(", expected "));
    if let Some((given, expected)) = expected("invalid type: ").or_else(|| expected("invalid value: ")) {
        return match (wanted(expected), is(given)) {
            (wanted, Some(is)) => format!("{wanted}; this is {is}"),
            (wanted, None) => wanted.to_owned(),
        };
    }
    if let Some((_, variants)) = expected("unknown variant ") {
        return variants.to_owned();
    }
    if let Some((_, fields)) = expected("unknown field ") {
        let fields = fields.strip_prefix("one of ").unwrap_or(fields);
        return format!("there is no such field here; there are {fields}");
    }
    if said.starts_with("unknown field ") {
        return "there is no such field here".into();
    }
    let integer =
        ["invalid digit found in string", "number too ", "cannot parse integer", "number out of range"];
    if integer.iter().any(|start| said.starts_with(start)) {
        return WHOLE.into();
    }
    if said.starts_with("provided string was not") {
        return "`true` or `false`".into();
    }
    if said.starts_with("failed to ") || said.contains("datetime") || said.contains("timestamp") {
        return TIME.into();
    }
    if said.starts_with("expected ") || said.starts_with("invalid length") {
        return "of the form that this field has in the API's document, /openapi.json".into();
    }
    said.to_owned()
}

/// A type, as people call it.
fn wanted(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => WHOLE,
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a string" | "string" | "str" | "a borrowed string" => "a text",
        "a boolean" | "bool" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other if other.starts_with("an RFC 3339") || other.contains("timestamp") => TIME,
        other => other,
    }
}

/// What was given instead, by its kind.
fn is(given: &str) -> Option<&'static str> {
    let kinds = [
        ("null", "null"),
        ("unit value", "null"),
        ("string", "a text"),
        ("integer", "a number"),
        ("floating point", "a number"),
        ("boolean", "true or false"),
        ("map", "an object"),
        ("sequence", "a list"),
    ];
    kinds.into_iter().find(|(start, _)| given.starts_with(start)).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keywheel_api::Timestamp;
    use serde::Deserialize;

    use super::*;
    use crate::api::body::parse;
    use crate::api::error::ApiError;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its errors matter")]
    struct Example {
        count: Option<u64>,
        share: Option<f64>,
        name: Option<String>,
        on: Option<bool>,
        list: Option<Vec<String>>,
        inner: Option<Inner>,
        at: Option<Timestamp>,
        kind: Option<Kind>,
        many: Option<BTreeMap<String, u64>>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its errors matter")]
    struct Inner {
        needed: u64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its errors matter")]
    enum Kind {
        Keys(u64),
        Percent(u64),
    }

    fn told(json: &str) -> (String, String) {
        match parse::<Example>(json.as_bytes()) {
            Err(ApiError::Problem(problem)) => {
                let error = &problem.errors[0];
                (error.field.clone(), error.rule.clone())
            }
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn each_refusal_names_field_and_rule_in_plain_words() {
        let check = |json: &str, field: &str, rule: &str| {
            assert_eq!(told(json), (field.to_owned(), rule.to_owned()), "{json}");
        };
        check(r#"{"count":-1}"#, "count", "a whole number, 0 or more; this is a number");
        check(r#"{"count":"hunter2"}"#, "count", "a whole number, 0 or more; this is a text");
        check(r#"{"share":[]}"#, "share", "a number; this is a list");
        check(r#"{"name":7}"#, "name", "a text; this is a number");
        check(r#"{"on":"yes"}"#, "on", "true or false; this is a text");
        check(r#"{"list":{}}"#, "list", "a list; this is an object");
        check(r#"{"list":[1]}"#, "list[0]", "a text; this is a number");
        check(r#"{"inner":"x"}"#, "inner", "an object; this is a text");
        check(r#"{"inner":{}}"#, "inner.needed", "it is missing");
        check(r#"{"name":"a","name":"b"}"#, "name", "given once; it is there twice");
        check(r#"{"many":{"a":null}}"#, "many.a", "a whole number, 0 or more; this is null");
        check(r#"{"at":"soon"}"#, "at", TIME);
        check(r#"{"at":"9999-12-31T23:59:59Z"}"#, "at", TIME);
        check(r#"{"at":7}"#, "at", &format!("{TIME}; this is a number"));
        let form = "of the form that this field has in the API's document, /openapi.json";
        check(r#"{"kind":5}"#, "kind", form);
        let unknown = told(r#"{"colour":1}"#);
        assert_eq!(unknown.0, "colour");
        assert!(
            unknown.1.starts_with("there is no such field here; there are `count`, `share`"),
            "{}",
            unknown.1
        );
        assert_eq!(told(r#"{"kind":{"share":1}}"#).1, "`keys` or `percent`");
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for (json, why) in [
            ("", "it ends too early, at line 1, column 0"),
            (r#"{"count":"#, "it ends too early, at line 1, column 9"),
            (r#"{"count":1,}"#, "it breaks JSON's rules, at line 1, column 12"),
            (r#"{"name":"\u12"}"#, "it breaks JSON's rules, at line 1, column 15"),
        ] {
            assert_eq!(told(json), (".".into(), format!("a JSON document: {why}")), "{json}");
        }
    }
}
