//! Who keys belong to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `POST /v1/clients`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateClient {
    /// 1 to 128 visible ASCII characters without quotes, commas and backslashes: it reaches headers.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::ClientName))]
    pub name: String,
    /// Who answers for the client: a team or a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub owner: Option<String>,
    /// Where to reach them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub contact: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Client {
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub name: String,
    pub owner: Option<String>,
    pub contact: Option<String>,
    pub created_at: Timestamp,
}
