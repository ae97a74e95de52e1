//! Meeting a server whose CA is known by its pin alone.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use time::OffsetDateTime;

use crate::certificate::{CaCertificate, CaPin};
use crate::digest::Sha256Digest;

/// Trusts one CA certificate, which the server itself must send.
///
/// The pin only chooses the root. Everything else is webpki's full verification: a stranger who sends the
/// true CA certificate along with a leaf of his own gains nothing.
#[derive(Debug)]
pub(super) struct PinnedCaVerifier {
    pin: CaPin,
    provider: Arc<CryptoProvider>,
}

impl PinnedCaVerifier {
    pub(super) fn new(pin: CaPin, provider: Arc<CryptoProvider>) -> Self {
        Self { pin, provider }
    }

    fn pinned_root(&self, presented: &[CertificateDer<'_>], now: UnixTime) -> Result<RootCertStore, Error> {
        let der = presented
            .iter()
            .find(|der| CaPin::from(Sha256Digest::of(der)) == self.pin)
            .ok_or(CertificateError::UnknownIssuer)?;
        // webpki takes any certificate for a root and never looks at a root's own validity.
        let ca = CaCertificate::from_der(der).map_err(|_| CertificateError::UnknownIssuer)?;
        let at = i64::try_from(now.as_secs())
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .ok_or(Error::FailedToGetCurrentTime)?;
        if !ca.is_valid_at(at) {
            return Err(CertificateError::Expired.into());
        }
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone())?;
        Ok(roots)
    }
}

impl ServerCertVerifier for PinnedCaVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = Arc::new(self.pinned_root(intermediates, now)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        // The CA signs leaves directly, so no certificate may stand between it and the leaf.
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
