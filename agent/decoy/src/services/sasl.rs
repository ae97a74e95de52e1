//! The SASL responses that carry a password in the clear.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// User and password of a PLAIN response (RFC 4616 §2), base64 as it came.
pub(super) fn plain(response: &str) -> (String, String) {
    let decoded = decoded(response);
    let mut parts = decoded.splitn(3, '\0');
    let (identity, user, password) = (parts.next(), parts.next(), parts.next());
    match (user, password) {
        (Some(user), Some(password)) => (user.to_owned(), password.to_owned()),
        _ => (
            identity.unwrap_or_default().to_owned(),
            user.unwrap_or_default().to_owned(),
        ),
    }
}

/// What base64 stands for, or the text itself when it is none.
pub(super) fn decoded(text: &str) -> String {
    let bytes = STANDARD
        .decode(text.trim())
        .unwrap_or_else(|_| text.as_bytes().to_vec());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_of_any_shape_give_what_was_tried() {
        let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
        assert_eq!(plain(&STANDARD.encode("\0bob\0s\0x")), pair("bob", "s\0x"));
        assert_eq!(plain(&STANDARD.encode("bob\0secret")), pair("bob", "secret"));
        assert_eq!(plain("*not base64*"), pair("*not base64*", ""));
    }
}
