//! How an image comes to the engine.

use std::collections::BTreeSet;

use crate::compose::PullPolicy;
use crate::desired::{Desired, Image};
use crate::planner::Refresh;
use crate::planner::graph::Graph;
use crate::step::Step;

/// The step that brings an image which is not there.
pub(super) fn fetch(image: &Image) -> Step {
    match image {
        Image::Archive(archive) => Step::LoadImage {
            blob: archive.blob.clone(),
            size: archive.size,
            reference: archive.reference.clone(),
            image_ids: archive.image_ids.clone(),
        },
        Image::Pinned(reference) => pull(reference, None, false, false),
        Image::Named(named) => match &named.build {
            Some(build) => Step::BuildImage {
                build: Box::new(build.clone()),
            },
            None => pull(&named.reference, named.platform.clone(), false, false),
        },
    }
}

fn pull(reference: &str, platform: Option<String>, always: bool, optional: bool) -> Step {
    Step::PullImage {
        reference: reference.to_owned(),
        platform,
        always,
        optional,
    }
}

/// Builds and pulls that are asked for although the engine has images of those names, in order of the names.
pub(in crate::planner) fn refresh(desired: &Desired, options: Refresh) -> Graph {
    let mut graph = Graph::default();
    let mut seen = BTreeSet::new();
    for (_, stack) in desired.stacks() {
        for service in stack.services.values() {
            let Image::Named(named) = &service.image else {
                continue;
            };
            if !seen.insert(&named.reference) {
                continue;
            }
            let build = named.build.as_ref().map(|build| Box::new(build.clone()));
            let asked = (options.build && build.is_some()) || named.policy == PullPolicy::Build;
            if asked && let Some(build) = build {
                graph.add(None, Step::BuildImage { build });
            } else if named.policy == PullPolicy::Always || (options.pull && named.build.is_none()) {
                let optional = named.build.is_some();
                let platform = named.platform.clone();
                graph.add(None, pull(&named.reference, platform, true, optional));
            }
        }
    }
    graph
}
