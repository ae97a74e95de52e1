//! Admission, for [`crate::fuzzing`].

#![allow(clippy::panic, reason = "a broken promise is a finding")]

use decnet_plan::policy::Policy;

use super::examine::{Audience, Examined, Memory, examine, restore};
use crate::fuzzing::{FLEET, HOST, ROOT, host_key, now};

/// Hands an envelope to admission; gives whether it was news.
///
/// # Panics
/// A promise is broken.
pub(crate) fn admit(envelope: &[u8]) -> bool {
    let audience = Audience {
        fleet: FLEET,
        host: HOST,
        host_key: host_key(),
        root: ROOT.clone(),
    };
    match examine(&audience, &Memory::default(), envelope, now()) {
        Ok(Examined::News(admitted)) => {
            let bundle = admitted.bundle();
            assert!((bundle.fleet, bundle.host) == (FLEET, HOST) && bundle.host_key == host_key());
            assert!(bundle.expires_at > now() && bundle.issued_at < bundle.expires_at);
            let again = restore(HOST, admitted.digest(), envelope, Policy::built_in());
            assert!(
                again.is_ok_and(|again| again.bundle() == bundle),
                "restored, it is another one"
            );
            true
        }
        Ok(Examined::Leave(order)) => {
            assert_eq!((order.document().fleet, order.document().host), (FLEET, HOST));
            true
        }
        Ok(Examined::NoNews) => panic!("nothing was accepted before"),
        Err(refusal) => {
            assert!(!refusal.detail.contains('\n'), "{:?}", refusal.detail);
            false
        }
    }
}
