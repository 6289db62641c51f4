//! `junto bls`: threshold BLS over a session.
//!
//! The protocol is pure and lives in `junto-bls`; this drives it over a session's executions: broadcast,
//! send, gather, and store the key before the run is called finished.

mod announce;
mod certificate;
mod claims;
mod holdings;
mod judge;
mod key_file;
mod keygen;
mod order;
mod renew;
mod resume;
mod run;
mod sign;
mod verify;

pub(crate) use key_file::KeyFile;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::args::{BlsCommand, Global};
use crate::failure::Failure;
use crate::open::Junto;
use crate::output::Output;
use junto_bls::KeyPublic;
use key_file::Held;

/// Runs one of the commands.
pub(crate) async fn run(
    command: BlsCommand,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    match command {
        BlsCommand::Keygen {
            session,
            threshold,
            name,
            wait,
        } => {
            Junto::with(global, async |junto| {
                keygen::keygen(junto, &session, &name, threshold, wait.patience(), output).await
            })
            .await
        }
        BlsCommand::Refresh { key, wait } => {
            Junto::with(global, async |junto| {
                renew::refresh(junto, &key, wait.patience(), output).await
            })
            .await
        }
        BlsCommand::Reshare {
            key,
            session,
            threshold,
            public_key,
            abandon_pending,
            wait,
        } => {
            let public_key = public_key.map(|hex| renew::expected(&hex)).transpose()?;
            let wanted = renew::Reshare {
                session,
                threshold,
                public_key,
                abandon: abandon_pending,
            };
            Junto::with(global, async |junto| {
                renew::reshare(junto, &key, wanted, wait.patience(), output).await
            })
            .await
        }
        BlsCommand::Sign {
            key,
            message_file,
            wait,
        } => {
            let message = crate::input::read_message(&message_file)?;
            Junto::with(global, async |junto| {
                sign::run(junto, &key, &message, wait.patience(), output).await
            })
            .await
        }
        BlsCommand::Verify {
            public_key,
            signature,
            message_file,
        } => verify::run(&public_key, &signature, &message_file, output),
        BlsCommand::List => Junto::with(global, async |junto| list(junto, output)).await,
        BlsCommand::Judge { file } => judge::run(&file, output),
    }
}

/// What there is to say about a key.
fn describe(name: &str, held: &Held) -> Value {
    let public = held.share.public();
    json!({
        "key": name,
        "scheme": junto_bls::CIPHERSUITE,
        "public_key": hex::encode(public.public_key().to_bytes()),
        "threshold": public.threshold().required(),
        "parties": public.threshold().holders(),
        "holder": held.share.index().value(),
        "epoch": public.epoch(),
        "session": held.origin.session,
    })
}

fn describe_text(name: &str, public: &KeyPublic) -> String {
    let threshold = public.threshold();
    format!(
        "key         {name}: any {} of {} parties sign (epoch {})\npublic key  {}",
        threshold.required(),
        threshold.holders(),
        public.epoch(),
        hex::encode(public.public_key().to_bytes())
    )
}

/// The keys, and how many newer shares of each wait for their certificate.
fn list(junto: &Junto, output: Output) -> Result<(), Failure> {
    let (mut values, mut texts) = (Vec::new(), Vec::new());
    for name in KeyFile::names(&junto.profile)? {
        let file = KeyFile::load(&junto.profile, &name)?;
        let mut value = match &file.held {
            Some(held) => {
                texts.push(describe_text(&name, held.share.public()));
                describe(&name, held)
            }
            None => json!({ "key": name }),
        };
        value["undecided"] = json!(file.undecided.len());
        values.push(value);
        texts.extend(file.undecided.iter().map(|run| {
            let text = describe_text(&name, run.pending.key());
            format!("{text}\nunusable    until another party hands over its certificate")
        }));
    }
    output.result(&json!({ "keys": values }), || {
        if texts.is_empty() {
            return "No keys yet. `junto bls keygen` makes one.".to_owned();
        }
        texts.join("\n")
    })
}
