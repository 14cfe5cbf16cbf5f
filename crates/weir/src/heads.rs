//! Heads of the ledger, signed and published: what makes a later change of history show to others.
//!
//! A head is the epoch and hash of an entry; the hash covers every entry before it. Signed with a key that only the operator
//! has, it binds the operator to that history before whoever holds a copy of it. It says nothing to somebody who has no
//! copy: the operator could sign another history in its place. So heads have to be handed out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use weir_connectors::messengers::FileMessenger;
use weir_environment::Environment;
use weir_pipeline::core::SharedLedger;
use weir_pipeline::notify::{DeliveryFailures, Message, Messenger};

/// File of all heads that were signed or published, one JSON a line, beside the ledger.
pub const HEADS_FILE: &str = "heads.jsonl";

/// A head as it is handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The project's name.
    pub project: String,
    /// The last epoch that it covers.
    pub epoch: u64,
    /// The hash of that epoch's entry, in hexadecimal.
    pub hash: String,
    /// When it was signed.
    pub at: String,
    /// The public key, in hexadecimal; empty where it is not signed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The signature over [`Head::signed_text`], in hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signature: String,
}

impl Head {
    /// The bytes that are signed: five lines.
    fn signed_text(&self) -> String {
        format!("weir ledger head 1\n{}\n{}\n{}\n{}\n", self.project, self.epoch, self.hash, self.at)
    }

    /// Whether `key` has signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let Some(signature) = from_hex(&self.signature) else { return false };
        UnparsedPublicKey::new(&ED25519, key.0).verify(self.signed_text().as_bytes(), &signature).is_ok()
    }
}

/// A key that signs. Shows nothing of itself.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A private key in PEM, as [`SigningKey::new_pem`] or `openssl genpkey -algorithm ed25519` writes it.
    pub fn parse(pem: &str) -> anyhow::Result<Self> {
        let bytes = pem_bytes(pem, "PRIVATE KEY").context("it is no private key in PEM")?;
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&bytes);
        Ok(Self(key.map_err(|_| anyhow::anyhow!("it is no Ed25519 key in PKCS#8"))?))
    }

    /// A new private key in PEM.
    pub fn new_pem() -> anyhow::Result<String> {
        let key = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new());
        let key = key.map_err(|_| anyhow::anyhow!("the machine gives no random bytes"))?;
        Ok(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(key.as_ref())))
    }

    /// Its public half, in hexadecimal.
    pub fn public(&self) -> String {
        hex(self.0.public_key().as_ref())
    }

    fn sign(&self, head: Head) -> Head {
        let head = Head { key: self.public(), ..head };
        let signature = hex(self.0.sign(head.signed_text().as_bytes()).as_ref());
        Head { signature, ..head }
    }
}

/// What stands before an Ed25519 public key in DER (RFC 8410).
const ED25519_DESCRIPTION: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Whom a signature is held against.
pub struct PublicKey([u8; ED25519_PUBLIC_KEY_LEN]);

impl PublicKey {
    /// Hexadecimal, or a PEM file as `openssl pkey -pubout` writes it.
    pub fn parse(given: &str) -> anyhow::Result<Self> {
        let bytes = match from_hex(given) {
            Some(bytes) => bytes,
            None => {
                let pem = std::fs::read_to_string(given).with_context(|| {
                    format!("`{given}` is neither a key in hexadecimal nor a file that can be read")
                })?;
                let bytes =
                    pem_bytes(&pem, "PUBLIC KEY").with_context(|| format!("{given} is no public key in PEM"))?;
                bytes.strip_prefix(&ED25519_DESCRIPTION).with_context(|| format!("{given} is no Ed25519 key"))?.to_vec()
            }
        };
        let length = bytes.len();
        let key = bytes.try_into();
        Ok(Self(key.map_err(|_| anyhow::anyhow!("an Ed25519 public key has 32 bytes, this one {length}"))?))
    }
}

fn pem_bytes(pem: &str, kind: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once(&format!("-----BEGIN {kind}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {kind}-----"))?;
    STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// Writes a private key that only its owner may read; refuses to overwrite one.
pub fn write_key(path: &Path, pem: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).with_context(|| format!("{} cannot be created", path.display()))?;
    file.write_all(pem.as_bytes())?;
    Ok(file.sync_all()?)
}

/// Heads of a file, one JSON a line.
pub fn read_heads(path: &Path) -> anyhow::Result<Vec<Head>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let heads = lines.map(|(number, line)| {
        serde_json::from_str(line).with_context(|| format!("{}:{} is no head", path.display(), number + 1))
    });
    let heads: Vec<Head> = heads.collect::<Result<_, _>>()?;
    ensure!(!heads.is_empty(), "{} holds no heads", path.display());
    Ok(heads)
}

/// What is wrong with heads: a signature that is not by the key, or a hash that the ledger does not have for the epoch.
/// Epochs after the ledger's last one are wrong too: what was signed is gone.
pub fn misfits(heads: &[Head], key: Option<&PublicKey>, hash_of: impl Fn(u64) -> Option<String>) -> Vec<String> {
    let mut misfits = Vec::new();
    for head in heads {
        let epoch = head.epoch;
        if key.is_some_and(|key| !head.is_signed_by(key)) {
            misfits.push(format!("epoch {epoch}: the head is not signed by this key"));
        }
        match hash_of(epoch) {
            Some(hash) if hash == head.hash => {}
            Some(hash) => misfits.push(format!("epoch {epoch}: the head has hash {}, the ledger {hash}", head.hash)),
            None => misfits.push(format!("epoch {epoch}: the ledger has no such entry")),
        }
    }
    misfits
}

/// Signs heads at an interval, keeps them and hands them out.
pub struct Publisher {
    /// The project's name.
    pub project: String,
    /// None: heads are not signed.
    pub key: Option<SigningKey>,
    /// Time from one head to the next.
    pub interval: Duration,
    /// Where they go, with names.
    pub messengers: Vec<(String, Arc<dyn Messenger>)>,
    /// The file of all of them.
    pub file: PathBuf,
    /// The chain.
    pub ledger: SharedLedger,
    /// The machine.
    pub environment: Environment,
    /// Told of failures.
    pub failures: DeliveryFailures,
}

impl Publisher {
    /// Works until `stop` turns true, and then once more.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut published = self.last_kept();
        loop {
            let last = *stop.borrow();
            if let Some(head) = self.head(published) {
                // Whoever did not get it gets a later one, which covers it.
                self.hand_out(&head).await;
                published = Some(head.epoch);
            }
            if last {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                _ = stop.changed() => {}
            }
        }
    }

    fn last_kept(&self) -> Option<u64> {
        read_heads(&self.file).ok()?.iter().map(|head| head.epoch).max()
    }

    /// The ledger's head, if it is a later one than was handed out before.
    fn head(&self, before: Option<u64>) -> Option<Head> {
        let (epoch, hash) = {
            let ledger = self.ledger.lock();
            (ledger.last_epoch()?, ledger.head().to_string())
        };
        if before.is_some_and(|before| epoch <= before) {
            return None;
        }
        let at = DateTime::from_timestamp_micros(self.environment.clock.now()).unwrap_or_default();
        let head = Head {
            project: self.project.clone(),
            epoch,
            hash,
            at: at.to_rfc3339_opts(SecondsFormat::Micros, true),
            key: String::new(),
            signature: String::new(),
        };
        Some(match &self.key {
            Some(key) => key.sign(head),
            None => head,
        })
    }

    async fn hand_out(&self, head: &Head) {
        let message = Message { id: format!("head@{}", head.epoch), body: serde_json::json!(head) };
        let kept: (String, Arc<dyn Messenger>) = ("heads".into(), Arc::new(FileMessenger::new(self.file.clone())));
        for (name, messenger) in [&kept].into_iter().chain(&self.messengers) {
            let delivered = messenger.deliver(&message).await;
            let mut failures = self.failures.lock();
            match delivered {
                Ok(()) => drop(failures.remove(name)),
                Err(error) => {
                    tracing::warn!(to = name, %error, "a head of the ledger could not be handed out");
                    failures.insert(name.clone(), error);
                }
            }
        }
    }
}

/// The key of `[ledger] sign`; errors do not repeat it.
pub fn signing_key(sign: &weir_project::Template) -> anyhow::Result<SigningKey> {
    let pem = match sign.resolve() {
        Ok(pem) => pem,
        Err(error) => bail!("[ledger] sign: {error}"),
    };
    SigningKey::parse(pem.expose())
        .context("[ledger] sign: write ${file:/path/key.pem}, as `weir ledger sign-key` makes it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(epoch: u64) -> Head {
        Head {
            project: "shop".into(),
            epoch,
            hash: format!("{epoch:064x}"),
            at: "2026-01-31T12:00:00.000000Z".into(),
            key: String::new(),
            signature: String::new(),
        }
    }

    #[test]
    fn a_signature_holds_for_its_head_and_key_alone() {
        let key = SigningKey::parse(&SigningKey::new_pem().unwrap()).unwrap();
        let other = SigningKey::parse(&SigningKey::new_pem().unwrap()).unwrap();
        let (public, stranger) = (PublicKey::parse(&key.public()).unwrap(), PublicKey::parse(&other.public()).unwrap());
        let signed = key.sign(head(7));
        assert!(signed.is_signed_by(&public) && !signed.is_signed_by(&stranger) && !head(7).is_signed_by(&public));
        for changed in [
            Head { epoch: 8, ..signed.clone() },
            Head { hash: format!("{:064x}", 8), ..signed.clone() },
            Head { project: "shop2".into(), ..signed.clone() },
            Head { at: "2026-02-01T12:00:00.000000Z".into(), ..signed.clone() },
        ] {
            assert!(!changed.is_signed_by(&public), "{changed:?}");
        }
        let told = serde_json::to_string(&signed).unwrap();
        assert_eq!(serde_json::from_str::<Head>(&told).unwrap(), signed);
    }

    #[test]
    fn heads_that_the_ledger_does_not_have_are_named() {
        let key = SigningKey::parse(&SigningKey::new_pem().unwrap()).unwrap();
        let public = PublicKey::parse(&key.public()).unwrap();
        let heads: Vec<Head> = (1..=3).map(|epoch| key.sign(head(epoch))).collect();
        let ledger = |epoch: u64| (epoch < 3).then(|| format!("{:064x}", if epoch == 2 { 9 } else { epoch }));
        let found = misfits(&heads, Some(&public), ledger);
        assert!(found.len() == 2 && found[0].contains("epoch 2") && found[1].contains("no such entry"), "{found:?}");
        assert_eq!(misfits(&[head(1)], Some(&public), ledger), ["epoch 1: the head is not signed by this key"]);
        assert!(misfits(&heads[..1], None, ledger).is_empty());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(SigningKey::parse("hunter2").is_err());
        assert!(PublicKey::parse("abcd").is_err() && PublicKey::parse("/not/there").is_err());
    }
}
