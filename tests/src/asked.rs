//! How much of something a run is asked for.

use std::str::FromStr;

use anyhow::{Context as _, Result};

/// What an environment variable says, or what is usual.
///
/// # Errors
///
/// When it says something that cannot be read.
pub fn asked<T: FromStr>(variable: &str, usual: T) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(usual),
    }
}
