//! The operator API.
use std::sync::Arc;

use crate::control::Control;

/// The routes.
pub fn router(_control: Arc<Control>) -> axum::Router {
    axum::Router::new()
}

/// The routes for one caller.
pub fn for_peer(router: axum::Router, _remote: &super::listen::Remote) -> axum::Router {
    router
}
