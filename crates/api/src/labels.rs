//! What operators call their clients and keys, to find them again.

use std::collections::BTreeMap;

/// The most labels of one client or key.
pub const MAX_LABELS: usize = 32;
/// The longest name and value, in bytes.
pub const MAX_LABEL: usize = 63;

/// Values by names, such as `team` → `payments`.
pub type Labels = BTreeMap<String, String>;

/// A change of [`Labels`]: a value is set, `null` takes a label away, and what is not named stays.
pub type LabelChanges = BTreeMap<String, Option<String>>;

/// Whether `text` can be a label's name or value: 1 to 63 letters, digits, `.`, `_`, `/` and `-`.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-');
    (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(plain)
}

/// The labels after a change, or `None` if a rule were broken: [`is_label`], and at most [`MAX_LABELS`].
#[must_use]
pub fn changed(labels: &Labels, changes: &LabelChanges) -> Option<Labels> {
    let mut labels = labels.clone();
    for (name, value) in changes {
        if !is_label(name) || !value.as_deref().is_none_or(is_label) {
            return None;
        }
        match value {
            Some(value) => labels.insert(name.clone(), value.clone()),
            None => labels.remove(name),
        };
    }
    (labels.len() <= MAX_LABELS).then_some(labels)
}

/// A filter of lists: `team=payments`, or `team` for whatever has that label. Several are separated by commas, and all must
/// hold.
///
/// # Errors
///
/// The part that is neither.
pub fn parse_filter(text: &str) -> Result<Vec<(String, Option<String>)>, &str> {
    let part = |part| {
        let (name, value) = match str::split_once(part, '=') {
            Some((name, value)) => (name, Some(value)),
            None => (part, None),
        };
        let good = is_label(name) && value.is_none_or(is_label);
        if good { Ok((name.to_owned(), value.map(str::to_owned))) } else { Err(part) }
    };
    text.split(',').map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn a_change_sets_takes_away_and_leaves_the_rest() {
        let before = labels(&[("team", "payments"), ("env", "prod")]);
        let changes = LabelChanges::from([("env".into(), None), ("tier".into(), Some("1".into()))]);
        assert_eq!(changed(&before, &changes), Some(labels(&[("team", "payments"), ("tier", "1")])));
        for (name, value) in [("", "x"), ("x", ""), ("a b", "x"), ("x", "a,b"), (&"x".repeat(64), "x")] {
            let changes = LabelChanges::from([(name.to_owned(), Some(value.to_owned()))]);
            assert_eq!(changed(&before, &changes), None, "{name:?} {value:?}");
        }
        assert_eq!(changed(&before, &LabelChanges::from([("a b".into(), None)])), None);
        let many = (0..31).map(|n| (n.to_string(), Some("x".into()))).collect();
        assert_eq!(changed(&before, &many), None, "33 labels");
    }

    #[test]
    fn filters_name_what_is_wrong_with_them() {
        let both = vec![("team".to_owned(), Some("a/b".to_owned())), ("env".to_owned(), None)];
        assert_eq!(parse_filter("team=a/b,env"), Ok(both));
        assert_eq!(parse_filter("team=a,=b"), Err("=b"));
        assert_eq!(parse_filter(""), Err(""));
    }
}
