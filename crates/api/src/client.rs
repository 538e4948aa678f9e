//! Who keys belong to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{LabelChanges, Labels};

/// `POST /v1/clients`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<crate::openapi::Label, crate::openapi::Label>))]
    pub labels: Labels,
    /// What its keys follow that have no policy of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::PolicyName>))]
    pub policy: Option<String>,
}

/// `PATCH /v1/clients/{client}`: what is absent stays as it is, and `null` takes away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct UpdateClient {
    #[serde(deserialize_with = "crate::present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub owner: Option<Option<String>>,
    #[serde(deserialize_with = "crate::present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub contact: Option<Option<String>>,
    #[serde(skip_serializing_if = "LabelChanges::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<crate::openapi::Label, crate::openapi::LabelChange>))]
    pub labels: LabelChanges,
    #[serde(deserialize_with = "crate::present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::PolicyName>))]
    pub policy: Option<Option<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Client {
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub name: String,
    pub owner: Option<String>,
    pub contact: Option<String>,
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    #[serde(default)]
    pub policy: Option<String>,
    pub created_at: Timestamp,
}
