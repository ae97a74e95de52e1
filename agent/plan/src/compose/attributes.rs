//! Every attribute of the Compose Specification, and whether it is supported.
//!
//! `attributes.tsv` holds one row for each attribute path of the specification's JSON schema: the path, `supported` or
//! `refused`, and the reason or a note. A path is written with `*` for a name that the author chose and `[]` for an
//! entry of a list. `docs/compose.md` shows the same rows.

use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Whether the agent does what an attribute says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It means what it means to Docker Compose.
    Supported,
    /// It is an error, for this reason.
    Refused(&'static str),
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute {
    /// Such as `services.*.volumes[].bind.propagation`.
    pub path: &'static str,
    pub support: Support,
    /// What a reader should know of a supported attribute; often empty.
    pub note: &'static str,
}

/// All rows, sorted by path.
pub fn all() -> impl Iterator<Item = Attribute> {
    include_str!("attributes.tsv").lines().map(|line| {
        let mut fields = line.split('\t');
        let path = fields.next().unwrap_or_default();
        let status = fields.next().unwrap_or_default();
        let text = fields.next().unwrap_or_default();
        let (support, note) = match status {
            "refused" => (Support::Refused(text), ""),
            _ => (Support::Supported, text),
        };
        Attribute { path, support, note }
    })
}

/// The row of a path in the form of the table.
#[must_use]
pub fn find(path: &str) -> Option<Attribute> {
    all().find(|attribute| attribute.path == path)
}

/// Why the attribute is refused, if it is one that is.
#[must_use]
pub fn refusal(path: &str) -> Option<&'static str> {
    match find(path)?.support {
        Support::Refused(reason) => Some(reason),
        Support::Supported => None,
    }
}

/// The table as a tree, to walk beside a document.
#[derive(Debug, Default)]
pub(crate) struct Branch {
    keys: BTreeMap<&'static str, Self>,
    any: Option<Box<Self>>,
    item: Option<Box<Self>>,
    support: Option<Support>,
}

impl Branch {
    pub(crate) fn root() -> &'static Self {
        static ROOT: OnceLock<Branch> = OnceLock::new();
        ROOT.get_or_init(|| {
            let mut root = Self::default();
            for attribute in all() {
                let mut branch = &mut root;
                for segment in attribute.path.split('.') {
                    let name = segment.trim_end_matches("[]");
                    branch = match name {
                        "*" => branch.any.get_or_insert_default(),
                        name => branch.keys.entry(name).or_default(),
                    };
                    if segment.ends_with("[]") {
                        branch = branch.item.get_or_insert_default();
                    }
                }
                branch.support = Some(attribute.support);
            }
            root
        })
    }

    /// What the table says of this attribute itself.
    pub(crate) fn support(&self) -> Option<Support> {
        self.support
    }

    pub(crate) fn key(&self, key: &str) -> Option<&Self> {
        self.keys.get(key).or(self.any.as_deref())
    }

    pub(crate) fn item(&self) -> Option<&Self> {
        self.item.as_deref()
    }

    /// Whether the keys of this mapping are attributes, not names that the author chose.
    pub(crate) fn names_attributes(&self) -> bool {
        !self.keys.is_empty()
    }

    pub(crate) fn attributes(&self) -> impl Iterator<Item = &'static str> {
        self.keys.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_whole_and_in_order() {
        let mut last = "";
        for attribute in all() {
            assert!(attribute.path > last, "{} stands after {last}", attribute.path);
            last = attribute.path;
            if let Support::Refused(reason) = attribute.support {
                assert!(!reason.is_empty(), "{} is refused for no reason", attribute.path);
            }
        }
        for line in include_str!("attributes.tsv").lines() {
            let status = line.split('\t').nth(1);
            assert!(matches!(status, Some("supported" | "refused")), "{line}");
        }
    }

    #[test]
    fn the_tree_finds_what_the_table_holds() {
        let service = Branch::root()
            .key("services")
            .and_then(|b| b.key("web"))
            .expect("a service");
        assert_eq!(
            service.key("image").and_then(Branch::support),
            Some(Support::Supported)
        );
        assert!(matches!(
            service.key("develop").and_then(Branch::support),
            Some(Support::Refused(_))
        ));
        let mount = service.key("volumes").and_then(Branch::item).expect("a mount");
        assert!(
            mount
                .key("bind")
                .is_some_and(|bind| bind.key("propagation").is_some())
        );
        assert!(service.key("imagine").is_none());
    }
}
