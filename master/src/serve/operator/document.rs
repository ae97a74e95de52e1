//! The OpenAPI document: what stands around the routes, which describe themselves.

use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, PathItem, Ref, RefOr, Response};

/// The description of the API, without anything behind it.
#[must_use]
pub fn document() -> OpenApi {
    let mut document = super::described().into_openapi();
    add_common_answers(&mut document);
    document
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "DECNET operator API",
        description = "Everything that operators do: describe the fleet, watch it, enrol hosts. Errors are \
                       `{\"detail\": \"…\"}`. A refused fleet description also has `errors`, one for each reason.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(super::views::ErrorView)),
    modifiers(&BearerToken),
    security(("token" = []))
)]
struct Frame;

/// The document without routes.
pub(super) fn frame() -> OpenApi {
    <Frame as utoipa::OpenApi>::openapi()
}

/// How callers show who they are.
struct BearerToken;

impl utoipa::Modify for BearerToken {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "An operator token of the role `viewer` or `admin`. On the Unix socket, root needs none.",
            ))
            .build();
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// What every route may answer besides its own.
const COMMON: [(&str, &str); 3] = [
    ("401", "No token, or one that is not known"),
    ("403", "The role does not allow it"),
    ("500", "The master failed; `error_id` stands in its log as well"),
];

/// Adds what every route may answer.
pub(super) fn add_common_answers(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            for (status, description) in COMMON {
                let mut response = Response::new(description);
                let content = Content::new(Some(Ref::from_schema_name("ErrorView")));
                response
                    .content
                    .insert("application/json".to_owned(), RefOr::T(content));
                operation
                    .responses
                    .responses
                    .entry(status.to_owned())
                    .or_insert(RefOr::T(response));
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}
