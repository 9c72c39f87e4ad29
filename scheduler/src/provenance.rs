//! What the scheduler needs to sign Content Credentials and to verify pictures.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kraftr_protocol::Clock;
use kraftr_provenance::KeyRing;
use kraftr_provenance::credentials::{
    Anchors, Authority, AuthorityError, Chain, ClaimError, Signature, SigningKey, check_claim,
};
use tokio::sync::Semaphore;

use crate::store::{Store, StoreError};

/// How long a command may take for one signature.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether a command has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes that are read of a command's answer; a signature in DER has about 72.
const ANSWER_BYTES_MAX: u64 = 1_024;
/// Signatures that are made at once.
const AT_ONCE: usize = 8;

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Those made for development.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The database that keeps them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was kept is no authority.
    #[error("the development certificates that were kept cannot be read: {0}")]
    Kept(#[from] serde_json::Error),
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// This is never signed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// What signs did not, this time.
    #[error("the signing command failed: {0}")]
    Command(String),
    /// The key is not that of the certificate.
    #[error("the signature does not fit the certificate: key and chain do not belong together")]
    Foreign,
}

#[derive(Debug, Clone)]
enum Secret {
    Key(SigningKey),
    Command(String),
}

/// Signs claims: with a key, or by asking a command that asks whoever has the key.
#[derive(Debug)]
pub struct Signatory {
    chain: Chain,
    secret: Secret,
    turns: Arc<Semaphore>,
}

impl Signatory {
    /// Signs with `key`.
    pub fn with_key(chain: Chain, key: SigningKey) -> Result<Self, SignatureError> {
        let probe = b"does the key belong to the certificate?";
        if !chain.verifies(probe, &key.sign(probe)) {
            return Err(SignatureError::Foreign);
        }
        Ok(Self::new(chain, Secret::Key(key)))
    }

    /// Signs by running `command` in a shell: it gets the bytes to sign on standard input and answers with the ES256
    /// signature over them, raw or in DER.
    pub fn with_command(chain: Chain, command: String) -> Self {
        Self::new(chain, Secret::Command(command))
    }

    fn new(chain: Chain, secret: Secret) -> Self {
        Self { chain, secret, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The certificates that it signs under.
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The signature over `message`, which must be a claim of ours.
    pub async fn sign(&self, message: Vec<u8>) -> Result<Signature, SignatureError> {
        check_claim(&message, &self.chain)?;
        let signature = match &self.secret {
            Secret::Key(key) => key.sign(&message),
            Secret::Command(command) => {
                let turn =
                    Arc::clone(&self.turns).acquire_owned().await.expect("the semaphore is never closed");
                let (command, message) = (command.clone(), message.clone());
                let asked = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    ask(&command, message)
                });
                asked.await.map_err(|error| SignatureError::Command(error.to_string()))??
            }
        };
        if self.chain.verifies(&message, &signature) { Ok(signature) } else { Err(SignatureError::Foreign) }
    }
}

/// Runs the command, on a thread that may block.
fn ask(command: &str, message: Vec<u8>) -> Result<Signature, SignatureError> {
    let failed = |what: &dyn std::fmt::Display| SignatureError::Command(what.to_string());
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed(&error))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    // A claim may be longer than a pipe: both ends move while the time is watched. A command may sign without reading
    // all, so what breaks here shows in its answer.
    let writing = std::thread::spawn(move || input.map(|mut input| input.write_all(&message)));
    let reading = std::thread::spawn(move || {
        let mut answer = Vec::new();
        let read = output.map(|output| output.take(ANSWER_BYTES_MAX).read_to_end(&mut answer));
        read.transpose().map(|_| answer)
    });
    let ended = wait(&mut child);
    drop(writing.join());
    let answer = reading.join().map_err(|_| failed(&"its answer could not be read"))?;
    if !ended.map_err(|error| failed(&error))? {
        return Err(failed(&"it did not end well; its own words are on standard error"));
    }
    let answer = answer.map_err(|error| failed(&error))?;
    Signature::parse(&answer)
        .ok_or_else(|| failed(&"its answer is no ES256 signature, neither r || s nor DER"))
}

/// Whether the command ended well; one that takes too long is ended.
fn wait(child: &mut Child) -> std::io::Result<bool> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if started.elapsed() > COMMAND_TIME_MAX {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Who signs, which marks are known, who is trusted.
#[derive(Debug)]
pub struct Provenance {
    /// Signs manifests.
    pub signatory: Signatory,
    /// The keys that marks are looked for with.
    pub keys: KeyRing,
    /// Whose signatures are trusted.
    pub anchors: Anchors,
}

impl Provenance {
    /// With certificates for development, which the store keeps and which all replicas share; known keys and nobody to
    /// trust.
    pub async fn development(store: &dyn Store, clock: &dyn Clock) -> Result<Self, SetupError> {
        let (chain, key) = development_authority(store, clock).await?.signer()?;
        let signatory = Signatory::new(chain, Secret::Key(key));
        Ok(Self { signatory, keys: KeyRing::development(), anchors: Anchors::none() })
    }
}

/// The authority that the store keeps: made at the first start, and anew before it ends.
pub async fn development_authority(store: &dyn Store, clock: &dyn Clock) -> Result<Authority, SetupError> {
    let now = clock.now().0 / 1_000_000;
    let kept = match store.authority().await? {
        Some(kept) => kept,
        None => store.keep_authority(&serde_json::to_string(&Authority::make(now)?)?, None).await?,
    };
    let authority: Authority = serde_json::from_str(&kept)?;
    if !authority.ends_soon(now) {
        return Ok(authority);
    }
    let made = serde_json::to_string(&Authority::make(now)?)?;
    Ok(serde_json::from_str(&store.keep_authority(&made, Some(&kept)).await?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> (Chain, SigningKey) {
        Authority::make(1_795_680_000).unwrap().signer().unwrap()
    }

    #[test]
    fn a_key_of_somebody_else_is_noticed_at_the_start() {
        let ((chain, key), (_, other)) = (authority(), authority());
        assert!(Signatory::with_key(chain.clone(), key).is_ok());
        assert!(matches!(Signatory::with_key(chain, other), Err(SignatureError::Foreign)));
    }

    #[test]
    fn a_command_signs_or_says_why_not() {
        let (_, key) = authority();
        let answer = |command: &str| ask(command, b"claim".to_vec()).map_err(|error| error.to_string());
        let signature = key.sign(b"claim");
        let octal = signature.0.map(|byte| format!("\\{byte:03o}")).concat();
        assert_eq!(answer(&format!("cat > /dev/null; printf '{octal}'")), Ok(signature));
        assert!(answer("cat").unwrap_err().contains("no ES256 signature"));
        assert!(answer("exit 3").unwrap_err().contains("did not end well"));
    }
}
