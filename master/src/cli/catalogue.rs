//! `services`, `archetypes`, `distros`.

use super::Console;
use super::client::Client;
use super::failure::Failure;
use super::table::table;
use crate::serve::operator::views::{ArchetypesView, DistrosView, ServicesView};

pub(super) async fn services(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let view: ServicesView = client.get("/api/v1/catalogue/services").await?;
    if console.json {
        return console.document(&view);
    }
    console.print(&table(
        ["SERVICE", "PORTS", "SETTINGS", "DESCRIPTION"],
        view.services.into_iter().map(|service| {
            let settings: Vec<String> = service.settings.into_iter().map(|setting| setting.key).collect();
            [
                service.name,
                service.ports.join(","),
                settings.join(","),
                service.description,
            ]
        }),
    ))
}

pub(super) async fn archetypes(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let view: ArchetypesView = client.get("/api/v1/catalogue/archetypes").await?;
    if console.json {
        return console.document(&view);
    }
    console.print(&table(
        ["ARCHETYPE", "OS FAMILY", "SERVICES", "DISTROS", "DESCRIPTION"],
        view.archetypes.into_iter().map(|archetype| {
            [
                archetype.name,
                archetype.os_family,
                archetype.services.join(","),
                archetype.distros.join(","),
                archetype.description,
            ]
        }),
    ))
}

pub(super) async fn distros(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let view: DistrosView = client.get("/api/v1/catalogue/distros").await?;
    if console.json {
        return console.document(&view);
    }
    let rows = view
        .distros
        .into_iter()
        .map(|distro| [distro.name, distro.like, distro.title]);
    console.print(&table(["DISTRO", "LIKE", "TITLE"], rows))
}
