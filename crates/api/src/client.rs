//! Who keys belong to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `POST /v1/clients`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateClient {
    /// 1 to 128 visible ASCII characters without quotes, commas and backslashes: it reaches headers.
    pub name: String,
    /// Who answers for the client: a team or a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Where to reach them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub name: String,
    pub owner: Option<String>,
    pub contact: Option<String>,
    pub created_at: Timestamp,
}
