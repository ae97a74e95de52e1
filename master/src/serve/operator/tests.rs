//! The API's promises, asked in process.

mod access;
mod audit;
mod deckies;
mod deploy;
mod document;
mod events;
mod every_route;
mod lifecycle;
mod swarm;
mod system;
mod trust;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::Request;
use hyper::Method;
use serde_json::{Value, json};

use super::Peer;
use super::document::document;

/// Somebody on the network.
const TLS: Peer = Peer::Tls {
    address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 4711),
};

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path)
}

/// Body of a deploy.
fn deploy(ini: &str) -> Option<Value> {
    Some(json!({ "ini_content": ini }))
}

/// Every method and path of the OpenAPI document.
fn documented_routes() -> Vec<(Method, String)> {
    let document = serde_json::to_value(document()).unwrap();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            routes.push((method.to_uppercase().parse().unwrap(), path.clone()));
        }
    }
    routes
}
