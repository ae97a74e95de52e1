//! What fleets are described with.

use axum::Json;
use axum::extract::State;

use super::App;
use super::views::{
    ArchetypeView, ArchetypesView, DistroView, DistrosView, ServiceView, ServicesView, SettingView,
};
use crate::fleet::catalogue::{Archetype, Distro, Field, Service};

/// List the services that deckies can show
#[utoipa::path(
    get, path = "/catalogue/services", tag = "catalogue",
    responses((status = 200, description = "By name", body = ServicesView))
)]
pub(super) async fn services(State(app): State<App>) -> Json<ServicesView> {
    let services = app
        .control
        .catalogue()
        .deployable()
        .map(ServiceView::from)
        .collect();
    Json(ServicesView { services })
}

/// List the archetypes
#[utoipa::path(
    get, path = "/catalogue/archetypes", tag = "catalogue",
    responses((status = 200, description = "By name", body = ArchetypesView))
)]
pub(super) async fn archetypes(State(app): State<App>) -> Json<ArchetypesView> {
    let archetypes = app
        .control
        .catalogue()
        .archetypes()
        .map(ArchetypeView::from)
        .collect();
    Json(ArchetypesView { archetypes })
}

/// List the distributions that deckies claim to run
#[utoipa::path(
    get, path = "/catalogue/distros", tag = "catalogue",
    responses((status = 200, description = "In the order in which deckies take them", body = DistrosView))
)]
pub(super) async fn distros(State(app): State<App>) -> Json<DistrosView> {
    let distros = app
        .control
        .catalogue()
        .distros()
        .iter()
        .map(DistroView::from)
        .collect();
    Json(DistrosView { distros })
}

impl From<&Service> for ServiceView {
    fn from(service: &Service) -> Self {
        Self {
            name: service.slug.to_string(),
            title: service.name.clone(),
            description: service.description.clone(),
            ports: service.ports.iter().map(ToString::to_string).collect(),
            settings: service.fields.iter().map(SettingView::from).collect(),
        }
    }
}

impl From<&Field> for SettingView {
    fn from(field: &Field) -> Self {
        Self {
            key: field.key.clone(),
            label: field.label.clone(),
            kind: field.kind.as_str().to_owned(),
            // What a secret is where nobody sets it is in the catalogue's source, and of no use here.
            default: field.default.clone().filter(|_| !field.secret),
            allowed: field.allowed.clone(),
            secret: field.secret,
            help: field.help.clone(),
        }
    }
}

impl From<&Archetype> for ArchetypeView {
    fn from(archetype: &Archetype) -> Self {
        Self {
            name: archetype.slug.to_string(),
            title: archetype.name.clone(),
            description: archetype.description.clone(),
            services: archetype.services.iter().map(ToString::to_string).collect(),
            distros: archetype.distros.iter().map(ToString::to_string).collect(),
            os_family: archetype.os_family.to_string(),
        }
    }
}

impl From<&Distro> for DistroView {
    fn from(distro: &Distro) -> Self {
        Self {
            name: distro.slug.to_string(),
            title: distro.name.clone(),
            like: distro.like.to_string(),
        }
    }
}
