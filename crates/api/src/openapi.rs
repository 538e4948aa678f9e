//! Schemas of texts that are plain strings, or types of another crate, elsewhere in this one.

use utoipa::ToSchema;

/// 32 bytes in hexadecimal: a SHA-256.
#[derive(ToSchema)]
#[schema(as = Digest, pattern = "^[0-9a-f]{64}$", example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
pub struct Digest(pub String);

/// A digest, or nothing.
#[derive(ToSchema)]
#[schema(as = DigestCursor, pattern = "^([0-9a-f]{64})?$")]
pub struct DigestCursor(pub String);

/// The identity of a ring's revision counter: a UUID.
#[derive(ToSchema)]
#[schema(as = Epoch, pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", example = "0199a3b4-0000-7000-8000-000000000001")]
pub struct Epoch(pub String);

/// 1 to 128 visible ASCII characters without quotes, commas and backslashes.
#[derive(ToSchema)]
#[schema(as = ClientName, pattern = r"^(?!\.{1,2}$)[!#-+\--\[\]-~]{1,128}$", example = "acme")]
pub struct ClientName(pub String);

/// 1 to 64 visible ASCII characters without quotes, commas and backslashes.
#[derive(ToSchema)]
#[schema(as = Scope, pattern = r"^[!#-+\--\[\]-~]{1,64}$", example = "market:read")]
pub struct Scope(pub String);

/// 1 to 64 letters, digits, `.`, `_` and `-`.
#[derive(ToSchema)]
#[schema(as = RingName, pattern = r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}$", example = "production")]
pub struct RingName(pub String);

/// A word and a label, each 1 to 16 lower-case letters or digits and followed by `_`.
#[derive(ToSchema)]
#[schema(as = KeyPrefix, pattern = "^[a-z0-9]{1,16}_[a-z0-9]{1,16}_$", example = "kw_test_")]
pub struct KeyPrefix(pub String);

/// Names a key version in public: `kv_` and 16 letters or digits.
#[derive(ToSchema)]
#[schema(as = VersionId, pattern = "^kv_[0-9A-Za-z]{16}$", example = "kv_5HbNq0ZtWc3Rk8Lm")]
pub struct VersionId(pub String);

/// At most 128 characters, none of them a control character.
#[derive(ToSchema)]
#[schema(as = TokenName, max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]*$", example = "deploy pipeline")]
pub struct TokenName(pub String);

/// At most 256 characters, none of them a control character.
#[derive(ToSchema)]
#[schema(as = Text, max_length = 256, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]*$", example = "payments team")]
pub struct Text(pub String);

/// The state of a key version.
#[derive(ToSchema)]
#[schema(as = State, rename_all = "lowercase")]
pub enum State {
    Active,
    Retiring,
    Pending,
    Retired,
    Revoked,
    Compromised,
}

/// 1 to 64 letters, digits, `.`, `_` and `-`, and not `none`.
#[derive(ToSchema)]
#[schema(as = PolicyName, pattern = r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}$", example = "quarterly")]
pub struct PolicyName(pub String);

/// 1 to 64 letters, digits, `.`, `_` and `-`, and not `preview`.
#[derive(ToSchema)]
#[schema(as = CampaignName, pattern = r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}$", example = "q4-2026")]
pub struct CampaignName(pub String);

/// How many keys rotate together: a number, or a share of what is selected in percent.
#[derive(ToSchema)]
#[schema(as = WaveSize, rename_all = "snake_case")]
pub enum WaveSize {
    Keys(WaveKeys),
    Percent(WavePercent),
}

/// 1 to 10000.
#[derive(ToSchema)]
#[schema(as = WaveKeys, minimum = 1, maximum = 10_000)]
pub struct WaveKeys(pub u64);

/// 1 to 100.
#[derive(ToSchema)]
#[schema(as = WavePercent, minimum = 1, maximum = 100)]
pub struct WavePercent(pub u64);

/// A label's name or value: 1 to 63 letters, digits, `.`, `_`, `/` and `-`.
#[derive(ToSchema)]
#[schema(as = Label, pattern = "^[A-Za-z0-9._/-]{1,63}$", example = "payments")]
pub struct Label(pub String);

/// `NAME=VALUE` or `NAME`, separated by commas.
#[derive(ToSchema)]
#[schema(
    as = LabelFilter,
    pattern = "^[A-Za-z0-9._/-]{1,63}(=[A-Za-z0-9._/-]{1,63})?(,[A-Za-z0-9._/-]{1,63}(=[A-Za-z0-9._/-]{1,63})?)*$",
    example = "team=payments"
)]
pub struct LabelFilter(pub String);

/// A time of the day in UTC.
#[derive(ToSchema)]
#[schema(as = Clock, pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$", example = "09:30")]
pub struct Clock(pub String);

/// A label's new value; `null` takes the label away.
#[derive(ToSchema)]
#[schema(as = LabelChange, pattern = "^[A-Za-z0-9._/-]{1,63}$")]
pub struct LabelChange(pub Option<String>);

/// 1 second up to 10 years, in seconds.
#[derive(ToSchema)]
#[schema(as = Span, minimum = 1, maximum = 315_360_000)]
pub struct Span(pub u64);
