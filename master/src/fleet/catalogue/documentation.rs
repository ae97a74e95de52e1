//! Holds the tables of `docs/catalogue.md` to the data that they are made from.

use std::fmt::Write as _;

use super::{Catalogue, HostnameStyle, Service};
use crate::fleet::fixture::CATALOGUE;

const PAGE: &str = include_str!("../../../../docs/catalogue.md");
const BEGIN: &str = "<!-- tables: begin -->\n";
const END: &str = "<!-- tables: end -->\n";

#[test]
fn the_tables_of_the_page_are_those_of_the_catalogue() {
    let tables = tables(&CATALOGUE);
    let shown = PAGE
        .split_once(BEGIN)
        .and_then(|(_, rest)| rest.split_once(END))
        .map(|(shown, _)| shown);
    assert!(
        shown == Some(tables.as_str()),
        "docs/catalogue.md is behind; put this between its two comments:\n{BEGIN}{tables}{END}"
    );
}

fn tables(catalogue: &Catalogue) -> String {
    let mut out = String::new();
    services(&mut out, catalogue).unwrap();
    settings(&mut out, catalogue).unwrap();
    machines(&mut out, catalogue).unwrap();
    out
}

fn services(out: &mut String, catalogue: &Catalogue) -> std::fmt::Result {
    writeln!(
        out,
        "\n## Services\n\n| service | listens on | decoy | what it is |\n| --- | --- | --- | --- |"
    )?;
    for service in catalogue.services() {
        let ports = join(service.ports.iter().map(|port| format!("{port:?}")));
        let decoy = match (service.is_deployable(), service.singleton) {
            (true, _) => "yes",
            (false, true) => "never on a decky",
            (false, false) => "not yet",
        };
        let Service {
            slug, description, ..
        } = service;
        writeln!(out, "| `{slug}` | {ports} | {decoy} | {description} |")?;
    }
    Ok(())
}

fn settings(out: &mut String, catalogue: &Catalogue) -> std::fmt::Result {
    writeln!(out, "\n## Settings\n\nA service that is not listed has none.\n")?;
    writeln!(
        out,
        "| service | key | type | default | meaning |\n| --- | --- | --- | --- | --- |"
    )?;
    for service in catalogue.services() {
        for field in &service.fields {
            let mut kind = field.kind.as_str().to_owned();
            if field.secret {
                kind += ", secret";
            }
            if !field.allowed.is_empty() {
                kind += &format!(
                    ": {}",
                    join(field.allowed.iter().map(|value| format!("`{value}`")))
                );
            }
            let default = field
                .default
                .as_ref()
                .map_or(String::new(), |value| format!("`{value}`"));
            let meaning = if field.help.is_empty() {
                field.label.clone()
            } else {
                format!("{}. {}", field.label, field.help)
            };
            writeln!(
                out,
                "| `{}` | `{}` | {kind} | {default} | {meaning} |",
                service.slug, field.key
            )?;
        }
    }
    Ok(())
}

fn machines(out: &mut String, catalogue: &Catalogue) -> std::fmt::Result {
    writeln!(
        out,
        "\n## Archetypes\n\n| archetype | what it is | services | distros | OS family | MAC addresses of |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
    for archetype in catalogue.archetypes() {
        let (services, distros) = (join(archetype.services.iter()), join(archetype.distros.iter()));
        let (slug, description, family) = (&archetype.slug, &archetype.description, &archetype.os_family);
        let vendors = archetype.vendors.join(", ");
        writeln!(
            out,
            "| `{slug}` | {description} | {services} | {distros} | {family} | {vendors} |"
        )?;
    }
    writeln!(
        out,
        "\n## Distros\n\nIn rotation order.\n\n| distro | name | host names like |\n| --- | --- | --- |"
    )?;
    for distro in catalogue.distros() {
        let style = match distro.hostname_style {
            HostnameStyle::Generic => "SRV-FALCON-42",
            HostnameStyle::Rhel => "falcon42.localdomain",
            HostnameStyle::Minimal => "falcon-42",
            HostnameStyle::Rolling => "falcon-ember",
        };
        writeln!(out, "| `{}` | {} | `{style}` |", distro.slug, distro.name)?;
    }
    writeln!(out, "\nThe words: {}.", catalogue.words().join(", "))?;
    let families: Vec<_> = catalogue.os_families().collect();
    writeln!(
        out,
        "\n## OS families\n\nKernel settings of a decky's network namespace.\n"
    )?;
    writeln!(
        out,
        "| setting | {} |",
        join(families.iter().map(|family| format!("`{}`", family.slug))).replace(", ", " | ")
    )?;
    writeln!(out, "| --- |{}", " --- |".repeat(families.len()))?;
    for key in families[0].sysctls.keys() {
        let values: Vec<&str> = families
            .iter()
            .map(|family| family.sysctls[key].as_str())
            .collect();
        writeln!(out, "| `{key}` | {} |", values.join(" | "))?;
    }
    let vendors: Vec<String> = families.iter().map(|family| family.vendors.join(", ")).collect();
    writeln!(out, "| MAC addresses of | {} |", vendors.join(" | "))?;
    writeln!(
        out,
        "\n## Vendors\n\n| vendor | name | MAC addresses start with |\n| --- | --- | --- |"
    )?;
    for vendor in catalogue.vendors() {
        let ouis = join(
            vendor
                .ouis
                .iter()
                .map(|[a, b, c]| format!("{a:02x}:{b:02x}:{c:02x}")),
        );
        writeln!(out, "| `{}` | {} | {ouis} |", vendor.slug, vendor.name)?;
    }
    writeln!(out)
}

fn join<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
