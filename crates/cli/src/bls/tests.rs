//! Parties whose runs are broken off, and processes that die, at the one point where it matters: when
//! some have confirmed and others may have the key. Over the carrier in memory, so that every step can
//! be chosen.
#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures)]

mod again;
mod certificates;
mod leaving;
mod meddling;
mod order;

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures::future::join_all;
use junto_bls::{Certificate, Holding, Occasion, Participant, PartyIndex, Signature};
use junto_session::carrier::memory::Hub;
use junto_session::{
    DisplayName, Execution, Kind, Members, Misuse, Params, PartyCount, Persona, Policy,
    SessionError, Sessions,
};

use super::key_file::{Held, KeyFile};
use super::renew::{self, Reshare};
use super::run::inbox;
use super::{certificate, keygen, sign};
use crate::failure::{Exit, Failure};
use crate::open::Junto;
use crate::output::Output;

/// Nothing waits for it: it turns what hangs into a failure.
const PATIENCE: Duration = Duration::from_secs(60);
const QUIET: Output = Output {
    json: true,
    quiet: true,
};
/// The parties: an honest one that succeeds, a victim, and a liar.
const HONEST: usize = 0;
const VICTIM: usize = 1;
const LIAR: usize = 2;
/// And somebody who comes later.
const NEWCOMER: usize = 3;

struct Table {
    hub: Hub,
    homes: Vec<tempfile::TempDir>,
    parties: Vec<Option<Junto>>,
}

impl Table {
    async fn new() -> Self {
        let mut table = Table {
            hub: Hub::new(),
            homes: Vec::new(),
            parties: Vec::new(),
        };
        for index in 0..4 {
            table.homes.push(tempfile::tempdir().unwrap());
            table.parties.push(None);
            table.enter(index).await;
        }
        table.meet("s", &[HONEST, VICTIM, LIAR]).await;
        table
    }

    fn home(&self, party: usize) -> &Path {
        self.homes[party].path()
    }

    fn of(&self, party: usize) -> &Junto {
        self.parties[party].as_ref().unwrap()
    }

    /// Opens a party's profile.
    async fn enter(&mut self, party: usize) {
        let carriage = self.hub.open(&format!("party {party}"));
        let junto = Junto::over(self.home(party), carriage).await.unwrap();
        self.parties[party] = Some(junto);
    }

    /// Ends a party's process, which was doing nothing any more, and starts another one.
    async fn again(&mut self, party: usize) {
        self.parties[party].take().unwrap().end().await;
        self.enter(party).await;
    }

    async fn meet(&self, name: &str, members: &[usize]) {
        let persona = || Persona {
            display_name: DisplayName::new("one").unwrap(),
            profile: None,
            relay: "memory".to_owned(),
            pinned: Vec::new(),
        };
        let params = Params {
            name: name.to_owned(),
            parties: PartyCount::new(members.len()).unwrap(),
            policy: Policy::Anonymous,
        };
        let sessions = |party: usize| -> &Sessions { &self.of(party).sessions };
        let host = sessions(members[0]).new_session(params, persona(), PATIENCE);
        let (host, link) = host.await.unwrap();
        let mut forming = vec![host];
        for party in &members[1..] {
            forming.push(
                sessions(*party)
                    .join(link.clone(), persona())
                    .await
                    .unwrap(),
            );
        }
        for forming in forming {
            forming.formed(PATIENCE).await.unwrap();
        }
    }

    fn key(&self, party: usize) -> KeyFile {
        KeyFile::load(&self.of(party).profile, "k").unwrap()
    }

    fn epoch(&self, party: usize) -> Option<u64> {
        let held = self.key(party).held;
        held.map(|held| held.share.public().epoch())
    }

    async fn command(&self, party: usize, command: Command) -> Result<(), Failure> {
        let junto = self.of(party);
        match command {
            Command::Keygen => keygen::keygen(junto, "s", "k", 2, PATIENCE, QUIET).await,
            Command::Refresh => renew::refresh(junto, "k", PATIENCE, QUIET).await,
            Command::Reshare => renew::reshare(junto, "k", into(None), PATIENCE, QUIET).await,
        }
    }

    /// The party reshares the key; whoever holds none yet has been told which one.
    async fn reshare(&self, party: usize, mut wanted: Reshare) -> Result<(), Failure> {
        if party == NEWCOMER {
            wanted.public_key = self.key(HONEST).public_key();
        }
        renew::reshare(self.of(party), "k", wanted, PATIENCE, QUIET).await
    }

    async fn all(&self, command: Command) {
        let all = tokio::join!(
            self.command(HONEST, command),
            self.command(VICTIM, command),
            self.command(LIAR, command)
        );
        all.0.unwrap();
        all.1.unwrap();
        all.2.unwrap();
    }

    async fn sign(&self, party: usize, message: &[u8], patience: Duration) -> Result<(), Failure> {
        sign::run(self.of(party), "k", message, patience, QUIET).await
    }

    /// Honest party and victim sign together, with the same epoch; it verifies.
    async fn signs(&self, message: &[u8]) {
        let (one, other) = tokio::join!(
            self.sign(HONEST, message, PATIENCE),
            self.sign(VICTIM, message, PATIENCE)
        );
        one.unwrap();
        other.unwrap();
        assert_eq!(self.epoch(HONEST), self.epoch(VICTIM));
        let key = self.key(VICTIM).public_key().unwrap();
        let file = sign::signature_file("k", message);
        let bytes = self.of(VICTIM).profile.read_sealed(&file).unwrap().unwrap();
        let signature = Signature::from_bytes(&bytes).unwrap();
        assert!(junto_bls::verify(&key, message, &signature));
    }

    /// How many shares of a party wait for a certificate, as it confirmed them.
    fn undecided(&self, party: usize) -> usize {
        let key = KeyFile::find(&self.of(party).profile, "k").unwrap();
        key.map_or(0, |key| key.undecided.len())
    }

    fn is_undecided(&self, party: usize) -> bool {
        self.undecided(party) > 0
    }

    /// These parties run a command until they have confirmed what it makes, and no further: what they have
    /// begun to say goes out as long as the commands are there.
    async fn confirm<'a>(&self, mut commands: Commands<'a>) -> Commands<'a> {
        join_all(commands.iter_mut().map(|(party, command)| {
            let (party, before) = (*party, self.undecided(*party));
            until(command.as_mut(), move || self.undecided(party) > before)
        }))
        .await;
        commands
    }

    /// All three of the first session confirm; nobody has the certificate.
    async fn all_confirm(&self, command: Command) -> Commands<'_> {
        let one = |party| (party, Box::pin(self.command(party, command)) as Running<'_>);
        self.confirm([HONEST, VICTIM, LIAR].map(one).into()).await
    }

    /// What follows from everything that the liar was told in the latest run that it has confirmed.
    async fn certificate_of_the_liar(&self) -> Certificate {
        let key = self.key(LIAR);
        let run = key.undecided.last().unwrap();
        let session = self.of(LIAR).session(&run.origin.session, PATIENCE).await;
        let session = session.unwrap();
        let execution = session.execution(&run.origin.label).await.unwrap();
        let setup = run.pending.setup();
        let me = u8::try_from(session.me().as_usize()).unwrap();
        let signer = session.signing_key().await.unwrap();
        let me = PartyIndex::new(me).unwrap();
        let party = Participant::new(setup, me, &signer, execution.seed()).unwrap();
        let said = async |number: u32| {
            let said = execution.gather(number, Kind::Broadcast, PATIENCE).await;
            inbox(said.unwrap())
        };
        let (round, _) = party.resume(&run.pending, &said(2).await).unwrap();
        round.receive(&said(4).await).unwrap()
    }

    /// All confirm a refresh, the liar gets all confirmations and breaks it off. Nobody waits for it any more.
    async fn liar_alone_gets_a_refresh(&mut self, number: u32) -> Certificate {
        let commands = self.all_confirm(Command::Refresh).await;
        let certificate = self.certificate_of_the_liar().await;
        drop(commands);
        let label = format!("bls refresh k #{number}");
        self.break_off_in("s", &label, &[HONEST, VICTIM]).await;
        for party in [HONEST, VICTIM, LIAR] {
            self.again(party).await;
        }
        certificate
    }

    /// A party takes a certificate that somebody has handed to it, or hands to it now.
    async fn take(&self, party: usize) {
        let mut key = self.key(party);
        let taken = certificate::take_over(self.of(party), "k", &mut key, PATIENCE).await;
        assert!(taken.unwrap());
    }

    /// A party loses so many certificates of its latest run that it was handed, and whatever came before.
    async fn lose(&self, party: usize, mut certificates: usize) {
        let key = self.key(party);
        let run = &key.undecided.last().unwrap().pending;
        let session = self.of(party).session("s", PATIENCE).await.unwrap();
        let public_key = run.key().public_key();
        let channel = certificate::channel(&session, &public_key).await.unwrap();
        while certificates > 0 {
            let lost = tokio::time::timeout(PATIENCE, channel.next()).await;
            let lost = lost.unwrap().unwrap();
            let certificate = Certificate::decode(&lost.payload).unwrap();
            certificates -= usize::from(certificate.setup() == run.setup());
            channel.done(lost.receipt).await.unwrap();
        }
        session.durable().await.unwrap();
    }

    /// One party hands another a certificate.
    async fn hand(&self, session: &str, from: usize, to: usize, certificate: &Certificate) {
        let theirs = self.of(to).session(session, PATIENCE).await.unwrap().me();
        let session = self.of(from).session(session, PATIENCE).await.unwrap();
        let handed = certificate::hand_to(&session, theirs, certificate).await;
        handed.unwrap();
    }

    /// Whatever the liar has said in a session before has arrived: a connection keeps order.
    async fn arrived(&self, session: &str, parties: &[usize]) {
        let liar = self.of(LIAR).session(session, PATIENCE).await.unwrap();
        let channel = liar.channel("sync").await.unwrap();
        for party in parties {
            let theirs = self.of(*party).session(session, PATIENCE).await.unwrap();
            channel.send(theirs.me(), b"sync".to_vec()).await.unwrap();
            let heard = theirs.channel("sync").await.unwrap();
            let heard = tokio::time::timeout(PATIENCE, heard.next()).await;
            heard.unwrap().unwrap();
        }
    }

    /// The liar ends the run towards the victim; those who have the key already do not care.
    async fn break_off(&self, label: &str) {
        self.break_off_in("s", label, &[VICTIM]).await;
    }

    /// The liar ends a run, and `heard` know it.
    async fn break_off_in(&self, session: &str, label: &str, heard: &[usize]) {
        let liar = self.of(LIAR).session(session, PATIENCE).await.unwrap();
        let execution = liar.execution(label).await.unwrap();
        let aborted = execution.abort("I do not want it", Members::NONE);
        aborted.await.unwrap();
        for party in heard {
            self.hears_the_end(*party, session, label).await;
        }
    }

    /// A party has heard that somebody has ended a run.
    async fn hears_the_end(&self, party: usize, session: &str, label: &str) {
        let theirs = self.of(party).session(session, PATIENCE).await.unwrap();
        let heard = async {
            while !matches!(theirs.execution(label).await, Err(SessionError::Peer(_))) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap();
    }
}

/// A reshare of which three must sign.
fn into(session: Option<&str>) -> Reshare {
    Reshare {
        session: session.map(str::to_owned),
        threshold: 3,
        public_key: None,
        abandon: false,
    }
}

/// A command under way.
type Running<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// Commands of several parties.
type Commands<'a> = Vec<(usize, Running<'a>)>;

#[derive(Clone, Copy, Debug)]
enum Command {
    Keygen,
    Refresh,
    Reshare,
}

impl Command {
    fn label(self) -> &'static str {
        match self {
            Command::Keygen => "bls keygen k #0",
            Command::Refresh => "bls refresh k #1",
            Command::Reshare => "bls reshare k #1",
        }
    }
}

/// Runs a command until `reached`, and no further: what it has begun to say goes out, as its
/// session is there.
async fn until<F: Future<Output = Result<(), Failure>> + ?Sized>(
    mut command: Pin<&mut F>,
    reached: impl Fn() -> bool,
) {
    // Where it yields is its own affair.
    tokio::task::unconstrained(poll_fn(|context| {
        let ready = command.as_mut().poll(context);
        if reached() {
            return Poll::Ready(());
        }
        assert!(ready.is_pending(), "it ended before");
        Poll::Pending
    }))
    .await;
}

/// Makes what `command` needs, then has the honest party succeed with it while the victim has confirmed and
/// the liar breaks off.
async fn attacked(table: &Table, command: Command) -> Running<'_> {
    if !matches!(command, Command::Keygen) {
        table.all(Command::Keygen).await;
    }
    let mut victim: Running<'_> = Box::pin(table.command(VICTIM, command));
    let mut liar = Box::pin(table.command(LIAR, command));
    let (honest, (), ()) = tokio::join!(
        table.command(HONEST, command),
        until(victim.as_mut(), || table.is_undecided(VICTIM)),
        until(liar.as_mut(), || table.is_undecided(LIAR)),
    );
    honest.unwrap();
    drop(liar);
    table.break_off(command.label()).await;
    victim
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_broken_off_towards_one_party_after_it_confirmed_succeeds_for_it_too() {
    for command in [Command::Keygen, Command::Refresh, Command::Reshare] {
        let table = Table::new().await;
        let victim = attacked(&table, command).await;
        let before = table.epoch(VICTIM);
        assert!(table.epoch(HONEST) > before, "{command:?}");
        victim.await.unwrap();
        assert_eq!(table.epoch(VICTIM), table.epoch(HONEST), "{command:?}");
        assert!(!table.is_undecided(VICTIM));
        if !matches!(command, Command::Reshare) {
            table.signs(b"message").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_whose_process_died_gets_the_certificate_by_its_next_command() {
    for command in [Command::Keygen, Command::Refresh] {
        let mut table = Table::new().await;
        drop(attacked(&table, command).await);
        table.again(VICTIM).await;
        assert!(table.epoch(HONEST) > table.epoch(VICTIM));
        table.signs(b"message").await;
        assert!(!table.is_undecided(VICTIM));
        // And the command that was broken off reports what came of it.
        let epoch = table.epoch(VICTIM);
        if matches!(command, Command::Keygen) {
            table.command(VICTIM, command).await.unwrap();
        }
        table.again(VICTIM).await;
        assert_eq!(table.epoch(VICTIM), epoch);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_command_again_takes_over_what_the_others_have() {
    for command in [Command::Keygen, Command::Refresh, Command::Reshare] {
        let mut table = Table::new().await;
        drop(attacked(&table, command).await);
        table.again(VICTIM).await;
        // Nobody else is here.
        table.command(VICTIM, command).await.unwrap();
        assert_eq!(table.epoch(VICTIM), table.epoch(HONEST), "{command:?}");
        assert!(!table.is_undecided(VICTIM));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_without_its_certificate_signs_nothing() {
    let mut table = Table::new().await;
    let soon = Duration::from_millis(300);
    drop(table.all_confirm(Command::Keygen).await);
    table.break_off(Command::Keygen.label()).await;
    let failure = table.sign(VICTIM, b"message", soon).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable, "{failure:?}");
    // It may be certified at any time, so there is no other key of that name; it is not lost either.
    table.again(VICTIM).await;
    let failure = table.command(VICTIM, Command::Keygen).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Misbehaved, "{failure:?}");
    assert!(table.is_undecided(VICTIM));
    assert!(table.epoch(VICTIM).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_run_settles_an_earlier_one_that_all_lost() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    // Nobody gets the certificate of the first refresh.
    drop(table.all_confirm(Command::Refresh).await);
    table.break_off(Command::Refresh.label()).await;
    for party in [HONEST, VICTIM, LIAR] {
        table.again(party).await;
        assert!(table.is_undecided(party));
    }
    // The old shares are there and sign, and the next refresh is the one that counts.
    table.signs(b"before").await;
    table.all(Command::Refresh).await;
    table.signs(b"after").await;
    for party in [HONEST, VICTIM, LIAR] {
        let key = table.key(party);
        assert_eq!(key.held.unwrap().origin.label, "bls refresh k #2");
        assert!(key.undecided.is_empty(), "dead shares stay behind");
    }
}

/// The victim dies when it has stored its share, and when it has stored the certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_party_may_die_after_whatever_it_stores() {
    for command in [Command::Keygen, Command::Refresh] {
        let mut table = Table::new().await;
        if matches!(command, Command::Refresh) {
            table.all(Command::Keygen).await;
        }
        let before = KeyFile::find(&table.of(VICTIM).profile, "k").unwrap();
        let before = before.and_then(|key| Some(key.held?.share.public().epoch()));
        // It has stored its share, and may or may not have said so.
        drop(table.all_confirm(command).await);
        for party in [HONEST, VICTIM, LIAR] {
            table.again(party).await;
            assert!(table.is_undecided(party));
            assert_eq!(table.epoch(party), before);
        }
        {
            // It has stored the certificate, handed it to nobody, and not ended the run.
            let mut victim = Box::pin(table.command(VICTIM, command));
            let (honest, liar, ()) = tokio::join!(
                table.command(HONEST, command),
                table.command(LIAR, command),
                until(victim.as_mut(), || table.epoch(VICTIM) > before),
            );
            honest.unwrap();
            liar.unwrap();
        }
        table.again(VICTIM).await;
        assert!(!table.is_undecided(VICTIM));
        // The same command again reports what there is: it waits for nobody, as the others are done.
        let epoch = table.epoch(VICTIM);
        table.command(VICTIM, command).await.unwrap();
        assert_eq!(table.epoch(VICTIM), epoch, "{command:?} is made again");
        let session = table.of(VICTIM).session("s", PATIENCE).await.unwrap();
        let ended = session.execution(command.label()).await.map(drop);
        assert!(
            matches!(ended, Err(SessionError::Misuse(Misuse::Finished))),
            "{ended:?}"
        );
        if !matches!(command, Command::Keygen) {
            // Next week all refresh again, and the victim with them.
            table.all(command).await;
            assert_eq!(table.epoch(VICTIM), epoch.map(|epoch| epoch + 1));
        }
        table.signs(b"message").await;
    }
}

/// The victim's process dies again and again, each time a little later.
#[tokio::test(flavor = "multi_thread")]
async fn a_party_may_die_at_any_point_of_a_refresh() {
    let mut table = Table::new().await;
    table.all(Command::Keygen).await;
    let others = {
        let honest = table.parties[HONEST].take().unwrap();
        let liar = table.parties[LIAR].take().unwrap();
        tokio::spawn(async move {
            let refreshed = tokio::join!(
                renew::refresh(&honest, "k", PATIENCE, QUIET),
                renew::refresh(&liar, "k", PATIENCE, QUIET),
            );
            refreshed.0.unwrap();
            refreshed.1.unwrap();
            honest
        })
    };
    let mut deaths = 0;
    loop {
        let mut left = deaths;
        let mut victim = Box::pin(table.command(VICTIM, Command::Refresh));
        let ended = poll_fn(|context| match victim.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        });
        let ended = ended.await;
        drop(victim);
        if let Some(result) = ended {
            result.unwrap();
            break;
        }
        deaths += 1;
        table.again(VICTIM).await;
        if table.epoch(VICTIM) == Some(1) {
            break; // the same command again might be another refresh
        }
    }
    table.parties[HONEST] = Some(others.await.unwrap());
    assert!(deaths > 3, "it died {deaths} times");
    table.signs(b"message").await;
    assert_eq!(table.epoch(VICTIM), Some(1));
}

/// What a party claims in the first round of the run with that label.
async fn claim(table: &Table, party: usize, session: &str, label: &str, held: &Held) -> Vec<u8> {
    let session = table.of(party).session(session, PATIENCE).await.unwrap();
    let roster: Vec<_> = session
        .roster()
        .iter()
        .map(|(_, entry)| entry.key)
        .collect();
    let occasion = Occasion {
        session: session.id().0,
        label: label.as_bytes(),
        roster: &roster,
    };
    let me = PartyIndex::new(u8::try_from(session.me().as_usize()).unwrap()).unwrap();
    Holding::new(&occasion, me, &held.share, &held.certificate).encode()
}

impl Table {
    /// The liar's number in a session.
    async fn number(&self, party: usize, session: &str) -> String {
        let session = self.of(party).session(session, PATIENCE).await.unwrap();
        session.me().as_usize().to_string()
    }

    /// The same as [`Table::say`], until all have said what they hold.
    async fn follow(&self, label: &str, claim: Vec<u8>) -> Execution {
        let session = self.of(LIAR).session("s", PATIENCE).await.unwrap();
        let execution = session.execution(label).await.unwrap();
        execution.broadcast(0, claim).await.unwrap();
        let all = execution.gather(0, Kind::Broadcast, PATIENCE);
        all.await.unwrap();
        execution
    }

    /// The liar says this in the first round of a run, and then follows it as a bystander.
    async fn say(&self, session: &str, label: &str, claim: Vec<u8>) {
        let session = self.of(LIAR).session(session, PATIENCE).await.unwrap();
        let execution = session.execution(label).await.unwrap();
        execution.broadcast(0, claim).await.unwrap();
    }

    /// The honest parties refresh, and all name the liar.
    async fn refresh_names_the_liar(&self, exit: Exit) {
        let (one, other) = tokio::join!(
            self.command(HONEST, Command::Refresh),
            self.command(VICTIM, Command::Refresh)
        );
        let liar = self.number(LIAR, "s").await;
        for failure in [one.unwrap_err(), other.unwrap_err()] {
            assert_eq!(failure.exit, exit, "{failure:?}");
            assert_eq!(failure.party.as_ref(), Some(&liar), "{failure:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_claims_a_share_that_it_does_not_hold_is_named() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let another = |party: usize| keygen::keygen(table.of(party), "s", "j", 2, PATIENCE, QUIET);
    let made = tokio::join!(another(HONEST), another(VICTIM), another(LIAR));
    made.0.and(made.1).and(made.2).unwrap();
    let held = |name: &str, party: usize| {
        let key = KeyFile::load(&table.of(party).profile, name).unwrap();
        key.held.unwrap()
    };
    let honest = held("k", HONEST);
    for run in 1..=5 {
        let label = format!("bls refresh k #{run}");
        let lie = match run {
            1 => b"anything".to_vec(),
            // It says nothing.
            2 => Vec::new(),
            // What an honest party said, word by word.
            3 => claim(&table, HONEST, "s", &label, &honest).await,
            // The share of another key, which all three do hold.
            4 => claim(&table, LIAR, "s", &label, &held("j", LIAR)).await,
            // Its own share, but as it was claimed in another run.
            _ => claim(&table, LIAR, "s", "bls refresh k #4", &held("k", LIAR)).await,
        };
        table.say("s", &label, lie).await;
        // The share of another key is no lie, but one name for two keys.
        let exit = if run == 4 {
            Exit::Refused
        } else {
            Exit::Misbehaved
        };
        table.refresh_names_the_liar(exit).await;
    }
    // The key did not suffer.
    table.signs(b"message").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_share_is_caught_up_with_once_and_no_more() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let old = table.key(LIAR).held.unwrap();
    table.all(Command::Refresh).await;
    for run in 2..=3 {
        let label = format!("bls refresh k #{run}");
        let lie = claim(&table, LIAR, "s", &label, &old).await;
        table.say("s", &label, lie).await;
    }
    table.refresh_names_the_liar(Exit::Misbehaved).await;
}

/// A liar that keeps several certificates to itself shows one in each run: nobody could have had the second
/// when it was shown the first.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_shown_one_certificate_after_the_other_is_no_liar() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    let latest = |behind: u8| super::holdings::Latest {
        certificate: table.key(HONEST).held.unwrap().certificate.clone(),
        behind: PartyIndex::new(behind).into_iter().collect(),
    };
    let first = latest(1);
    let shown = first.shown().collect();
    first.none_stays_behind(&shown).unwrap_err();
    latest(2).none_stays_behind(&shown).unwrap();
    table.all(Command::Refresh).await;
    latest(1).none_stays_behind(&shown).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_that_lacks_the_certificate_gets_it_in_the_run_of_the_others() {
    let mut table = Table::new().await;
    drop(attacked(&table, Command::Refresh).await);
    table.again(LIAR).await;
    assert_eq!(table.epoch(LIAR), Some(0));
    table.command(LIAR, Command::Refresh).await.unwrap();
    assert_eq!(table.epoch(LIAR), Some(1));
    // As if nothing of what both others have handed over had arrived.
    table.lose(VICTIM, 2).await;
    table.again(VICTIM).await;
    assert_eq!(table.epoch(VICTIM), Some(0));
    table.all(Command::Refresh).await;
    for party in [HONEST, VICTIM, LIAR] {
        assert_eq!(table.epoch(party), Some(2));
    }
    table.signs(b"message").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_reshare_the_newcomer_names_the_liar_as_well() {
    let table = Table::new().await;
    table.all(Command::Keygen).await;
    table.meet("t", &[HONEST, VICTIM, LIAR, NEWCOMER]).await;
    let reshare = |party: usize| table.reshare(party, into(Some("t")));
    let honest = table.key(HONEST).held.unwrap();
    let liar = table.number(LIAR, "t").await;
    // The share of another, as that one claims it.
    let label = "bls reshare k #0";
    let lie = claim(&table, HONEST, "t", label, &honest).await;
    table.say("t", label, lie).await;
    let ended = tokio::join!(reshare(HONEST), reshare(VICTIM), reshare(NEWCOMER));
    for failure in [
        ended.0.unwrap_err(),
        ended.1.unwrap_err(),
        ended.2.unwrap_err(),
    ] {
        assert_eq!(failure.exit, Exit::Misbehaved, "{failure:?}");
        assert_eq!(failure.party.as_ref(), Some(&liar), "{failure:?}");
    }
    // A key of its own, of which it does hold a share.
    table.meet("u", &[LIAR, NEWCOMER]).await;
    let own = |party: usize| keygen::keygen(table.of(party), "u", "own", 2, PATIENCE, QUIET);
    let made = tokio::join!(own(LIAR), own(NEWCOMER));
    made.0.and(made.1).unwrap();
    let invented = KeyFile::load(&table.of(LIAR).profile, "own").unwrap();
    let label = "bls reshare k #1";
    let lie = claim(&table, LIAR, "t", label, &invented.held.unwrap()).await;
    table.say("t", label, lie).await;
    let ended = tokio::join!(reshare(HONEST), reshare(VICTIM), reshare(NEWCOMER));
    for failure in [
        ended.0.unwrap_err(),
        ended.1.unwrap_err(),
        ended.2.unwrap_err(),
    ] {
        assert_eq!(failure.exit, Exit::Refused, "{failure:?}");
        assert_eq!(failure.party.as_ref(), Some(&liar), "{failure:?}");
    }
    // When all are honest it goes well.
    let ended = tokio::join!(
        reshare(HONEST),
        reshare(VICTIM),
        reshare(LIAR),
        reshare(NEWCOMER)
    );
    ended.0.and(ended.1).and(ended.2).and(ended.3).unwrap();
    assert_eq!(table.epoch(NEWCOMER), Some(1));
}
