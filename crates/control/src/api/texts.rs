//! Texts from outside. None may have a control character: nothing here is called so, and PostgreSQL takes no NUL. Nor one
//! that turns the direction of writing: in a terminal it would show a name as another one.

use std::fmt;

use keywheel_api::Problem;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::ApiError;

const RULE: &str = "text without control characters and such as turn the direction of writing";

/// Whether `text` has no control character.
pub(super) fn is_plain(text: &str) -> bool {
    let turns = |char: char| matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !text.chars().any(|char| char.is_control() || turns(char))
}

/// Refuses a JSON document with a text, or a member's name, that is not plain. What is no JSON at all is for whoever
/// reads it to say.
pub(super) fn check(json: &[u8]) -> Result<(), ApiError> {
    let mut json = serde_json::Deserializer::from_slice(json);
    match serde_path_to_error::deserialize::<_, Plain>(&mut json) {
        Err(error) if error.inner().is_data() => Err(refused(&error.path().to_string())),
        _ => Ok(()),
    }
}

/// Refuses query parameters that are not plain.
pub(super) fn check_query(query: &str) -> Result<(), ApiError> {
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !is_plain(&name) {
            return Err(refused("."));
        }
        if !is_plain(&value) {
            return Err(refused(&name));
        }
    }
    Ok(())
}

/// A member's own name may be what is refused, and is shown to people.
pub(super) fn refused(field: &str) -> ApiError {
    Problem::field(field.replace(char::is_control, "\u{fffd}"), RULE).into()
}

/// Any JSON value whose texts are plain.
struct Plain;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Plain {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(RULE)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self, E> {
        if is_plain(text) { Ok(self) } else { Err(E::custom(RULE)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(refused: ApiError) -> String {
        match refused {
            ApiError::Problem(problem) => problem.errors[0].field.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_control_character_is_found_wherever_it_stands() {
        let field = |json: &str| check(json.as_bytes()).map_err(field);
        assert_eq!(field(r#"{"a":[1,-1,0.5,null,true,"b\\u0000 ü"]}"#), Ok(()));
        assert_eq!(field(r#"{"a":[{"b":"x\u0000"}]}"#), Err("a[0].b".into()));
        assert_eq!(field("{\"a\":\"\u{7f}\"}"), Err("a".into()));
        assert_eq!(field(r#"{"a":{"b\n":1}}"#), Err("a.b\u{fffd}".into()));
        assert_eq!(field(r#""\u0085""#), Err(".".into()));
        assert_eq!(field("{\"a\":\"x\u{202e}y\"}"), Err("a".into()));
        assert_eq!(field("{"), Ok(()), "somebody else says so");
    }

    #[test]
    fn a_query_names_the_parameter() {
        let field = |query| check_query(query).map_err(field);
        assert_eq!(field("a=b+c&d=%C3%BC&e"), Ok(()));
        assert_eq!(field("a=b&c=%00"), Err("c".into()));
        assert_eq!(field("a%00=b"), Err(".".into()));
    }
}
