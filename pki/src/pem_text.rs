//! PEM (RFC 7468), strict about what a text may hold.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// RFC 7468 section 2: generators wrap at 64 characters.
const LINE: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PemError {
    #[error("not a PEM text: {0}")]
    Malformed(String),
    #[error("no PEM block in the text")]
    Empty,
    #[error("expected one PEM block, found {0}")]
    Several(usize),
    #[error("expected a PEM block {expected:?}, found {found:?}")]
    Label { expected: &'static str, found: String },
}

/// Writes one block. The text may be a private key, so every buffer it passes through is wiped.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let mut body = Zeroizing::new(String::with_capacity(der.len() * 4 / 3 + 4));
    STANDARD.encode_string(der, &mut body);
    // Room for all of it at once: a growing string would leave copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(
        body.len() + body.len() / LINE + 2 * label.len() + 40,
    ));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// Reads a text that holds exactly one block, with this label.
pub(crate) fn decode_one(label: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let mut blocks = decode_all(label, text)?;
    match (blocks.pop(), blocks.len()) {
        (Some(block), 0) => Ok(block),
        (_, others) => Err(PemError::Several(others + 1)),
    }
}

/// Reads a text that holds one or more blocks, all with this label.
pub(crate) fn decode_all(label: &'static str, text: &str) -> Result<Vec<Zeroizing<Vec<u8>>>, PemError> {
    let blocks = pem::parse_many(text).map_err(|error| PemError::Malformed(error.to_string()))?;
    if blocks.is_empty() {
        return Err(PemError::Empty);
    }
    blocks
        .into_iter()
        .map(|block| {
            if block.tag() == label {
                Ok(Zeroizing::new(block.into_contents()))
            } else {
                Err(PemError::Label {
                    expected: label,
                    found: block.tag().chars().take(40).collect(),
                })
            }
        })
        .collect()
}
