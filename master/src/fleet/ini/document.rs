//! Sections to a document.

use std::collections::BTreeMap;

use decnet_wire::ids::ServiceSlug;

use super::{Document, IniError};
use crate::fleet::catalogue::Catalogue;
use crate::fleet::model::CustomService;

pub(super) fn parse(
    text: &str,
    catalogue: &Catalogue,
    known: &BTreeMap<ServiceSlug, CustomService>,
) -> Result<Document, Vec<IniError>> {
    let _ = (text, catalogue, known);
    Err(Vec::new())
}
