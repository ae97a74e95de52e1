//! The planner's promises: one at a time in `rules`, for everything at once in `properties`.

mod fleet;
mod properties;
mod rules;
