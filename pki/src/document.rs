//! What a verified payload says, in the one form that this version knows.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A payload that is no document of the form that is known.
#[derive(Debug)]
pub(crate) enum ReadError {
    Malformed(serde_json::Error),
    /// It is of this form.
    Schema(u32),
}

/// Reads a document of the form `known`.
pub(crate) fn read<T: DeserializeOwned>(payload: &[u8], known: u32) -> Result<T, ReadError> {
    // The version of the form is read by itself: a newer document need not parse as one of ours.
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let head: Head = serde_json::from_slice(payload).map_err(ReadError::Malformed)?;
    if head.schema != known {
        return Err(ReadError::Schema(head.schema));
    }
    serde_json::from_slice(payload).map_err(ReadError::Malformed)
}
