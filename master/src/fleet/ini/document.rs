//! Sections to a document: what kind each section is, what it inherits, how many deckies it makes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;

use decnet_wire::ids::{DeckyName, ServiceSlug};
use serde_json::Value;

use super::error::{Faults, IniClass, IniError, MAX_ERRORS, shown};
use super::known::Known;
use super::lines::{self, DEFAULT, Section};
use super::section::{self, DeckyKeys};
use super::{At, DeckySpec, Document, MAX_CHARACTERS, Warning};
use crate::fleet::catalogue::Catalogue;
use crate::fleet::model::{BASE, CustomService, DeploymentLimit, Persona};

const GENERAL: &str = "general";
const CUSTOM: &str = "custom-";

pub(super) fn parse(
    text: &str,
    catalogue: &Catalogue,
    known: &BTreeMap<ServiceSlug, CustomService>,
) -> Result<Document, Vec<IniError>> {
    whole_text(text).map_err(|error| vec![error])?;
    let mut faults = Faults::default();
    let sections = lines::read(text, &mut faults);
    if faults.is_empty() && sections.iter().all(|section| section.name == DEFAULT) {
        let message = "the text has no section; add one for each decky, such as [web]";
        return Err(vec![IniError::new(IniClass::NoSections, message).line(1)]);
    }
    let mut reader = Reader {
        known: Known {
            catalogue,
            custom: known.clone(),
        },
        document: Document::default(),
        names: HashMap::new(),
        addresses: HashMap::new(),
        groups: HashSet::new(),
        full: false,
        dropped_warnings: 0,
        faults,
    };
    reader.sections(&sections);
    reader.finish()
}

/// The checks that come before any line is looked at, the size first.
fn whole_text(text: &str) -> Result<(), IniError> {
    if text.chars().nth(MAX_CHARACTERS).is_some() {
        let message =
            format!("the text has more than {MAX_CHARACTERS} characters; split it into several deploys");
        let line = 1 + text.chars().take(MAX_CHARACTERS).filter(|c| *c == '\n').count();
        return Err(IniError::new(IniClass::TooLarge, message).line(line));
    }
    if text.trim().is_empty() {
        let message = "the text is empty; describe at least one decky";
        return Err(IniError::new(IniClass::Empty, message).line(1));
    }
    if text.starts_with('\u{feff}') {
        let message = "the text starts with a byte-order mark; save it as UTF-8 without one";
        return Err(IniError::new(IniClass::Syntax, message).line(1));
    }
    Ok(())
}

struct Reader<'a> {
    known: Known<'a>,
    document: Document,
    /// Decky name to section and line.
    names: HashMap<DeckyName, (String, usize)>,
    addresses: HashMap<Ipv4Addr, (String, usize)>,
    /// Sections with an amount above 1.
    groups: HashSet<String>,
    /// More deckies than any fleet can have.
    full: bool,
    dropped_warnings: usize,
    faults: Faults,
}

impl Reader<'_> {
    fn sections(&mut self, sections: &[Section]) {
        // Custom services first: what a dotted section name means depends on them.
        for section in sections.iter().filter(|section| !section.name.contains('.')) {
            if let Some(name) = section.name.strip_prefix(CUSTOM) {
                self.custom(section, name);
            }
        }
        let default = sections.iter().find(|section| section.name == DEFAULT);
        if let Some(default) = default {
            section::unknown_decky_keys(default, &mut self.faults);
        }
        let mut personas = Vec::new();
        for section in sections {
            let dotted = section
                .name
                .rsplit_once('.')
                .filter(|(_, slug)| self.known.is_service(slug));
            match (section.name.as_str(), dotted) {
                (DEFAULT, _) => {}
                (GENERAL, _) => self.document.general = section::general(section, &mut self.faults),
                (_, Some((target, slug))) => personas.push((section, target, slug)),
                (name, None) if name.starts_with(CUSTOM) && !name.contains('.') => {}
                _ => self.decky(section, default),
            }
        }
        for (section, target, slug) in personas {
            self.persona(section, target, slug);
        }
    }

    fn custom(&mut self, section: &Section, name: &str) {
        let service = section::custom(section, &mut self.faults);
        let slug: ServiceSlug = match name.parse() {
            Ok(slug) => slug,
            Err(_) => {
                let message =
                    "the name after `custom-` is 1 to 32 of a-z, 0-9 and '_', starting with a letter";
                self.faults.push(section.fault(IniClass::Custom, message));
                return;
            }
        };
        if self.known.catalogue.service(&slug).is_some() || slug.as_str() == BASE {
            let message = format!("`{slug}` is taken by the catalogue; choose another name after `custom-`");
            self.faults.push(section.fault(IniClass::Custom, message));
            return;
        }
        self.known.custom.insert(slug.clone(), service.clone());
        let at = At {
            value: service,
            line: section.line,
            section: section.name.clone(),
            key: "binary".to_owned(),
        };
        self.document.custom_services.insert(slug, at);
    }

    fn decky(&mut self, section: &Section, default: Option<&Section>) {
        section::unknown_decky_keys(section, &mut self.faults);
        let keys = section::decky(section, default, &self.known, &mut self.faults);
        let amount = keys.amount.unwrap_or(1);
        if amount > 1 {
            self.groups.insert(section.name.clone());
        }
        if amount == 1
            && let Some(ip) = &keys.ip
        {
            self.claim(ip);
        }
        for index in 1..=amount {
            let text = match amount {
                1 => section.name.clone(),
                _ => format!("{}-{index:02}", section.name),
            };
            let Ok(name) = text.parse::<DeckyName>() else {
                self.bad_name(section, &text);
                return;
            };
            if let Some((other, line)) = self.names.get(&name) {
                let message = format!(
                    "decky {name} is already made by [{}] on line {line}; rename one",
                    shown(other)
                );
                self.faults.push(section.fault(IniClass::Collision, message));
                continue;
            }
            if self.document.deckies.len() == usize::from(DeploymentLimit::MAX) {
                self.too_many(section);
                return;
            }
            self.names
                .insert(name.clone(), (section.name.clone(), section.line));
            self.document.deckies.push(spec(name, section, &keys));
        }
    }

    fn claim(&mut self, ip: &At<Ipv4Addr>) {
        match self.addresses.get(&ip.value) {
            Some((other, line)) => {
                let message = format!(
                    "{} is already the address of [{}] on line {line}; change one",
                    ip.value,
                    shown(other)
                );
                self.faults
                    .push(IniError::new(IniClass::Collision, message).at(ip));
            }
            None => {
                self.addresses.insert(ip.value, (ip.section.clone(), ip.line));
            }
        }
    }

    fn bad_name(&mut self, section: &Section, text: &str) {
        let mut message = format!(
            "`{}` is not a decky name: 1 to 63 of a-z, 0-9 and '-', neither starting nor ending with '-'; rename the section",
            shown(text)
        );
        if text.eq_ignore_ascii_case(GENERAL) || text.eq_ignore_ascii_case(DEFAULT) {
            message.push_str(" (did you mean [general] or [DEFAULT]?)");
        } else if let Some((_, last)) = text.rsplit_once('.') {
            message = format!(
                "{message} (`{}` is not a service either, which would make it a sub-section)",
                shown(last)
            );
        }
        self.faults.push(section.fault(IniClass::Name, message));
    }

    fn too_many(&mut self, section: &Section) {
        // Once: every further section would say the same.
        if !self.full {
            self.full = true;
            let message = format!(
                "the text describes more than {} deckies; no fleet has more",
                DeploymentLimit::MAX
            );
            self.faults.push(section.fault(IniClass::Limit, message));
        }
    }

    fn persona(&mut self, section: &Section, target: &str, slug: &str) {
        let Ok(slug) = slug.parse::<ServiceSlug>() else {
            return;
        };
        let Some(persona) = self.settings(section, &slug) else {
            return;
        };
        let exact = target
            .parse::<DeckyName>()
            .is_ok_and(|name| self.names.contains_key(&name));
        let group = !exact && self.groups.contains(target);
        if !exact && !group {
            self.warn(
                section,
                format!("left out: no decky of this text is called {}", shown(target)),
            );
            return;
        }
        let at = At {
            value: persona,
            line: section.line,
            section: section.name.clone(),
            key: String::new(),
        };
        for decky in &mut self.document.deckies {
            // The section with an amount, never its name as a prefix: [web.ssh] says nothing about [web-db].
            if (exact && decky.name.as_str() == target) || (group && decky.section == target) {
                decky.personas.insert(slug.clone(), at.clone());
            }
        }
    }

    /// The settings of a sub-section; None when some are wrong.
    fn settings(&mut self, section: &Section, slug: &ServiceSlug) -> Option<Persona> {
        let Some(service) = self.known.catalogue.service(slug) else {
            for entry in &section.entries {
                let message = "custom services have no settings; remove the line";
                let error = section
                    .fault(IniClass::UnknownKey, message)
                    .line(entry.line)
                    .key(&entry.key);
                self.faults.push(error);
            }
            return section.entries.is_empty().then(Persona::default);
        };
        let values: Vec<Value> = section
            .entries
            .iter()
            .map(|entry| Value::from(entry.value.as_str()))
            .collect();
        let pairs = section
            .entries
            .iter()
            .zip(&values)
            .map(|(entry, value)| (entry.key.as_str(), value));
        let errors = match service.persona(pairs) {
            Ok(persona) => return Some(persona),
            Err(errors) => errors,
        };
        let lines: HashMap<&str, usize> = section
            .entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry.line))
            .collect();
        for error in errors {
            let known = error
                .key
                .as_deref()
                .is_none_or(|key| service.field(key).is_some());
            let class = if known {
                IniClass::Persona
            } else {
                IniClass::UnknownKey
            };
            let mut fault = section.fault(class, error.message);
            if let Some(key) = error.key {
                fault = fault
                    .line(lines.get(key.as_str()).copied().unwrap_or(section.line))
                    .key(&key);
            }
            self.faults.push(fault);
        }
        None
    }

    fn warn(&mut self, section: &Section, message: String) {
        if self.document.warnings.len() < MAX_ERRORS {
            let (line, section) = (section.line, shown(&section.name));
            self.document.warnings.push(Warning {
                line,
                section,
                message,
            });
        } else {
            self.dropped_warnings += 1;
        }
    }

    fn finish(mut self) -> Result<Document, Vec<IniError>> {
        if !self.faults.is_empty() {
            return Err(self.faults.into_errors());
        }
        if let (Some(last), more @ 1..) = (self.document.warnings.last().cloned(), self.dropped_warnings) {
            let message = format!("and {more} more warnings");
            self.document.warnings.push(Warning { message, ..last });
        }
        Ok(self.document)
    }
}

fn spec(name: DeckyName, section: &Section, keys: &DeckyKeys) -> DeckySpec {
    DeckySpec {
        name,
        section: section.name.clone(),
        line: section.line,
        ip: keys.ip.clone(),
        services: keys.services.clone(),
        archetype: keys.archetype.clone(),
        os_family: keys.os_family.clone(),
        interval: keys.interval,
        egress: keys.egress.clone(),
        distro: None,
        personas: BTreeMap::new(),
    }
}
