//! The other implementation of DSSE, `securesystemslib`, agrees with ours about every signature.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use decnet_pki::envelope::{Envelope, pre_authentication_encoding};
use decnet_pki::key::{PublicKey, SigningKey};
use decnet_tests::processes::Master;
use decnet_tests::seed::Seed;
use serde_json::{Value, json};

const TYPE: &str = "application/vnd.example+json";
const LONGEST: usize = 1 << 20;

/// Where `tests/setup.sh` puts it.
const PYTHON: &str = "/var/cache/decnet-tests/oracles/bin/python";

fn python() -> Result<PathBuf> {
    let path = std::env::var_os("DECNET_ORACLES_PYTHON").map_or_else(|| PYTHON.into(), PathBuf::from);
    ensure!(
        path.exists(),
        "{} is not there: run `make set-up`",
        path.display()
    );
    Ok(path)
}

/// What securesystemslib says to a request.
fn oracle(request: &Value) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/dsse.py");
    let mut child = Command::new(python()?)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(request.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the oracle failed: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn verify(envelope: &Value, keys: &[PublicKey], threshold: usize) -> Result<Value> {
    let keys: BTreeMap<_, _> = keys.iter().map(|key| (key.key_id(), key.to_string())).collect();
    oracle(&json!({ "do": "verify", "envelope": envelope, "keys": keys, "threshold": threshold }))
}

fn payloads(seed: &Seed) -> Vec<Vec<u8>> {
    let random = (0..1 + seed.below(5000))
        .map(|_| seed.below(256).to_le_bytes()[0])
        .collect();
    vec![
        vec![],
        b"{}".to_vec(),
        b"DSSEv1 1 a 1 b".to_vec(),
        "\u{e9}\0".into(),
        random,
    ]
}

#[test]
fn both_sign_the_same_bytes() -> Result<()> {
    let seed = Seed::announced("signatures");
    for payload in payloads(&seed) {
        for kind in [TYPE, "", "\u{e9}", "a 1 b"] {
            let theirs = oracle(&json!({ "do": "pae", "type": kind, "payload": STANDARD.encode(&payload) }))?;
            let ours = STANDARD.encode(pre_authentication_encoding(kind, &payload));
            ensure!(theirs["pae"] == ours.as_str(), "{kind:?} {payload:?}: {theirs}");
        }
    }
    Ok(())
}

#[test]
fn what_we_sign_is_verified_there_and_what_is_changed_is_refused() -> Result<()> {
    let seed = Seed::announced("signatures");
    let keys = [
        SigningKey::generate()?,
        SigningKey::generate()?,
        SigningKey::generate()?,
    ];
    let public: Vec<_> = keys.iter().map(SigningKey::public).collect();
    for payload in payloads(&seed) {
        for signers in 1..=3 {
            let signing: Vec<_> = keys.iter().take(signers).collect();
            let envelope = Envelope::sign(TYPE, payload.clone(), &signing);
            let envelope: Value = serde_json::from_slice(&envelope.to_json())?;
            for threshold in 1..=3 {
                let said = verify(&envelope, &public, threshold)?;
                ensure!(
                    said["refused"].is_null() == (threshold <= signers),
                    "{signers} of {threshold}: {said}"
                );
            }
            let mut relabelled = envelope.clone();
            relabelled["payloadType"] = json!("application/vnd.other+json");
            let mut longer = envelope.clone();
            longer["payload"] = json!(STANDARD.encode([&payload[..], b" "].concat()));
            for changed in [relabelled, longer] {
                let said = verify(&changed, &public, 1)?;
                ensure!(!said["refused"].is_null(), "{changed}: {said}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_signed_there_is_verified_by_us_and_what_is_changed_is_refused() -> Result<()> {
    let seed = Seed::announced("signatures");
    for payload in payloads(&seed) {
        for signers in 1..=3_usize {
            let request = json!({ "do": "sign", "type": TYPE, "payload": STANDARD.encode(&payload), "signers": signers });
            let signed = oracle(&request)?;
            let keys: Vec<PublicKey> = signed["keys"]
                .as_object()
                .context("no keys")?
                .values()
                .map(|key| Ok(key.as_str().context("no key")?.parse()?))
                .collect::<Result<_>>()?;
            let envelope = Envelope::parse(signed["envelope"].to_string().as_bytes(), LONGEST)?;
            for threshold in 1..=3 {
                let needed = NonZeroUsize::new(threshold).context("none")?;
                let verified = envelope.verify(TYPE, &keys, needed);
                ensure!(
                    verified.is_ok() == (threshold <= signers),
                    "{signers} of {threshold}"
                );
                if let Ok(verified) = verified {
                    ensure!(verified.bytes() == payload);
                }
            }
            let mut changed = signed["envelope"].clone();
            changed["payload"] = json!(STANDARD.encode([&payload[..], b" "].concat()));
            let changed = Envelope::parse(changed.to_string().as_bytes(), LONGEST)?;
            ensure!(changed.verify(TYPE, &keys, NonZeroUsize::MIN).is_err());
            ensure!(
                envelope
                    .verify("application/vnd.other+json", &keys, NonZeroUsize::MIN)
                    .is_err()
            );
        }
    }
    Ok(())
}

/// The trust root as `decnet init` has left it, found and read without a line of ours.
#[test]
fn a_new_fleets_trust_root_is_verified_there() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let master = Master::init(folder.path())?;
    let mut found = Vec::new();
    for file in files(&master.state_dir)? {
        if let Ok(envelope) = serde_json::from_slice::<Value>(&std::fs::read(&file)?)
            && envelope["payloadType"] == "application/vnd.decnet.trust-root+json"
        {
            let root: Value = serde_json::from_slice(
                &STANDARD.decode(envelope["payload"].as_str().context("no payload")?)?,
            )?;
            let keys: Vec<PublicKey> = root["operator_keys"]
                .as_array()
                .context("no operator keys")?
                .iter()
                .map(|key| Ok(key.as_str().context("no key")?.parse()?))
                .collect::<Result<_>>()?;
            let threshold = usize::try_from(root["threshold"].as_u64().context("no threshold")?)?;
            let said = verify(&envelope, &keys, threshold)?;
            ensure!(said["refused"].is_null(), "{}: {said}", file.display());
            found.push(file);
        }
    }
    ensure!(
        !found.is_empty(),
        "there is no trust root under {}",
        master.state_dir.display()
    );
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(files(&entry.path())?);
        } else {
            all.push(entry.path());
        }
    }
    Ok(all)
}
