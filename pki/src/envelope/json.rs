//! The JSON form of an envelope (DSSE `envelope.md`).

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_PAD_INDIFFERENT, URL_SAFE_PAD_INDIFFERENT};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Envelope, MAX_KEY_ID_LEN, MAX_PAYLOAD_TYPE_LEN, MAX_SIGNATURE_LEN, MAX_SIGNATURES, Signature};

pub(super) fn write(envelope: &Envelope) -> Vec<u8> {
    // Strings and byte counts only: there is no map with odd keys and no writer that could fail.
    #[allow(clippy::expect_used)]
    serde_json::to_vec(envelope).expect("an envelope is plain strings")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeOut<'a> {
    payload_type: &'a str,
    payload: String,
    signatures: Vec<SignatureOut<'a>>,
}

#[derive(Serialize)]
struct SignatureOut<'a> {
    keyid: &'a str,
    sig: String,
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        EnvelopeOut {
            payload_type: &self.payload_type,
            payload: STANDARD.encode(&self.payload),
            signatures: self
                .signatures
                .iter()
                .map(|signature| SignatureOut {
                    keyid: &signature.key_id,
                    sig: STANDARD.encode(&signature.bytes),
                })
                .collect(),
        }
        .serialize(serializer)
    }
}

// "Empty fields may be omitted" (envelope.md): an omitted member is an empty one. An empty type verifies as
// nothing, and so does an empty signature.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeIn {
    #[serde(default)]
    payload_type: String,
    #[serde(default)]
    payload: Base64,
    #[serde(default)]
    signatures: Signatures,
}

#[derive(Deserialize)]
struct SignatureIn {
    #[serde(default)]
    keyid: String,
    #[serde(default)]
    sig: Base64,
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object(read) = Object::<EnvelopeIn>::deserialize(deserializer)?;
        if read.payload_type.len() > MAX_PAYLOAD_TYPE_LEN {
            return Err(de::Error::custom(format_args!(
                "payloadType is longer than {MAX_PAYLOAD_TYPE_LEN} bytes"
            )));
        }
        Ok(Self {
            payload_type: read.payload_type,
            payload: read.payload.0,
            signatures: read.signatures.0,
        })
    }
}

/// A JSON object and nothing else: a derived structure is also read from the list of its members' values, in which no
/// other verifier would see an envelope.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[derive(Default)]
struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Base64Visitor)
    }
}

struct Base64Visitor;

impl Visitor<'_> for Base64Visitor {
    type Value = Base64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a base64 string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        // protocol.md: verifiers must accept either alphabet. One string never mixes them.
        let decoded = if text.bytes().any(|byte| matches!(byte, b'-' | b'_')) {
            URL_SAFE_PAD_INDIFFERENT.decode(text)
        } else {
            STANDARD_PAD_INDIFFERENT.decode(text)
        };
        decoded
            .map(Base64)
            .map_err(|error| E::custom(format_args!("not base64: {error}")))
    }
}

#[derive(Default)]
struct Signatures(Vec<Signature>);

impl<'de> Deserialize<'de> for Signatures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(SignaturesVisitor)
    }
}

struct SignaturesVisitor;

impl<'de> Visitor<'de> for SignaturesVisitor {
    type Value = Signatures;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX_SIGNATURES} signatures")
    }

    // The caps hold while reading, so a hostile list costs no memory.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut signatures = Vec::new();
        while let Some(Object(read)) = seq.next_element::<Object<SignatureIn>>()? {
            if signatures.len() == MAX_SIGNATURES {
                return Err(de::Error::custom(format_args!(
                    "more than {MAX_SIGNATURES} signatures"
                )));
            }
            if read.keyid.len() > MAX_KEY_ID_LEN {
                return Err(de::Error::custom(format_args!(
                    "keyid is longer than {MAX_KEY_ID_LEN} bytes"
                )));
            }
            if read.sig.0.len() > MAX_SIGNATURE_LEN {
                return Err(de::Error::custom(format_args!(
                    "sig is longer than {MAX_SIGNATURE_LEN} bytes"
                )));
            }
            signatures.push(Signature {
                key_id: read.keyid,
                bytes: read.sig.0,
            });
        }
        Ok(Signatures(signatures))
    }
}
