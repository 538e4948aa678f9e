//! JSON objects, and nothing else: serde by itself takes an array for a struct, its items for the members in order.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// What is read from an object alone.
#[derive(Debug, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members(PhantomData))
    }
}

struct Members<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

pub(crate) fn one<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(object)| object)
}

pub(crate) fn optional<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let found = Option::<Object<T>>::deserialize(deserializer)?;
    Ok(found.map(|Object(object)| object))
}

pub(crate) fn many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let found = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(found.into_iter().map(|Object(object)| object).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, json};

    use crate::object::Object;
    use crate::{CreatePolicy, Import, StartRotation, UpdateClient};

    #[test]
    fn an_array_is_no_object() {
        assert!(from_str::<UpdateClient>("[null]").is_ok(), "which serde by itself would take for one");
        assert!(from_str::<Object<UpdateClient>>("[null]").is_err());
        assert!(from_str::<Object<UpdateClient>>("{}").is_ok());
        let version = json!({ "version": ["kv_0123456789abcdef", "ab".repeat(32)] }).to_string();
        assert!(from_str::<StartRotation>(&version).is_err());
        assert!(from_str::<StartRotation>(r#"{"version":null}"#).is_ok());
        for terms in ["[]", r#"{"window":[["mon"],"09:00","10:00"]}"#, r#"{"brownout":[0.5,1]}"#] {
            let policy = format!(r#"{{"name":"x","terms":{terms}}}"#);
            assert!(from_str::<CreatePolicy>(&policy).is_err(), "{policy}");
        }
        let items = json!({ "items": [["ab".repeat(32), "acme", []]] }).to_string();
        assert!(from_str::<Import>(&items).is_err());
    }
}
