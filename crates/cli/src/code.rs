//! Short codes in place of links: `--code`, and `7-crossover-clockwork` where a link is asked for.

mod redeemed;

use std::io::IsTerminal as _;
use std::num::NonZeroU8;

use junto_agent::client::{ClientOptions, SocksServer};
use junto_code::mailbox::{self, LIFE, Mailbox, MailboxError, Place, Told};
use junto_code::nearby::Nearby;
use junto_code::{Code, Refusal, Turned};
use zeroize::Zeroizing;

use crate::args::{CodeRelay, OfferCode};
use crate::failure::{Exit, Failure};
use crate::lan::{self, Announcement};
use crate::output::Output;
use crate::profile::Profile;
use crate::relay::{client_failure, login, parse_address};
use crate::way;

/// A link that can be had for a code.
pub(crate) struct Offer {
    mailbox: Mailbox,
    relay: String,
    link: String,
    uses: NonZeroU8,
    /// In the local network.
    announced: Option<Announcement>,
}

impl Offer {
    /// Has `uses` others get the link by a code, through a mailbox on this relay.
    pub(crate) async fn make(
        (profile, socks): (&Profile, Option<&SocksServer>),
        relay: &str,
        link: String,
        uses: usize,
    ) -> Result<Self, Failure> {
        let uses = u8::try_from(uses).ok().and_then(NonZeroU8::new);
        let uses = uses.ok_or_else(|| Failure::usage("there is nobody to give a code to"))?;
        let place = place(profile, socks, relay)?;
        let made = Box::pin(Mailbox::open(place, LIFE)).await;
        let mailbox = made.map_err(|error| failure(error, relay))?;
        let relay = relay.to_owned();
        Ok(Self {
            mailbox,
            relay,
            link,
            uses,
            announced: None,
        })
    }

    /// Tells the local network of it, if that is asked for. Without that it can be used all the same.
    pub(crate) fn announce(&mut self, code: &OfferCode, output: Output) {
        if !code.relay.lan {
            return;
        }
        let made = parse_address(&self.relay).and_then(|relay| {
            let near = Nearby::new(self.mailbox.code().number(), relay);
            let near = near
                .map_err(|_| Failure::usage("the relay's address is too long to be announced"))?;
            Announcement::make(&near)
        });
        match made {
            Ok(made) => self.announced = Some(made),
            Err(failure) => output.say(format_args!(
                "warning: {}; the code can be used, but is not found in the local network",
                failure.message
            )),
        }
    }

    /// As [`Offer::make`]. What the link leads to is there already, so without a code the link has to do.
    pub(crate) async fn make_or_say(
        visitor: (&Profile, Option<&SocksServer>),
        relay: &str,
        link: String,
        uses: usize,
        code: &OfferCode,
        output: Output,
    ) -> Option<Self> {
        match Self::make(visitor, relay, link, uses).await {
            Ok(mut offer) => {
                offer.announce(code, output);
                Some(offer)
            }
            Err(failure) => {
                let help = failure
                    .help
                    .map_or_else(String::new, |help| format!(" ({help})"));
                output.say(format_args!(
                    "There is no code: {}{help}. Use the link instead.",
                    failure.message
                ));
                None
            }
        }
    }

    /// To be told to the others.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        self.mailbox.code().text()
    }

    /// Says to a person at a terminal what to do with it; `command`: what the others run, `{}` standing for the code.
    pub(crate) fn show(&self, command: &str, output: Output) {
        if output.json || !std::io::stderr().is_terminal() {
            return;
        }
        let each = match self.uses.get() {
            1 => "the other party".to_owned(),
            uses => format!("the {uses} others"),
        };
        output.say(format_args!(
            "Tell this code to {each}, by voice say. They run: {}\n\
             with `--relay {}`{}, unless their profile lists that relay first. It can be used for {} minutes; \
             one wrong try ends it.",
            command.replace("{}", &self.text()),
            self.relay,
            if self.announced.is_some() { " or, in this network, `--lan`" } else { "" },
            LIFE.as_secs() / 60
        ));
    }

    /// Gives the link to who knows the code, and turns others away. Ends only when somebody tried another code.
    pub(crate) async fn serve(&mut self, output: Output) -> Failure {
        let (link, announced) = (&self.link, &self.announced);
        let served = self.mailbox.serve(link, self.uses, |told| {
            let can_be_used = matches!(told, Told::Admitted { left: 1.. } | Told::Crowded);
            if let Some(announced) = announced.as_ref().filter(|_| !can_be_used) {
                announced.recall();
            }
            output.say(match told {
                Told::Admitted { left: 0 } => {
                    "The code was used; it is worth nothing any more.".to_owned()
                }
                Told::Admitted { left } => format!("The code was used; {left} more can use it."),
                Told::Expired => format!("The code has expired. The link still leads here:\n{link}"),
                Told::Crowded => format!(
                    "Many begin to use the code and do not go on, which keeps others out. The link leads here without it:\n{link}"
                ),
                Told::Wrong => "Somebody tried a wrong code.".to_owned(),
                Told::Flooded => "Too many asked for the code.".to_owned(),
            });
        });
        let error = served.await;
        let is_known = matches!(error, MailboxError::Wrong | MailboxError::Flooded);
        let failure = failure(error, &self.relay);
        if is_known {
            return failure;
        }
        output.say(format_args!(
            "The code cannot be used any more: {}. The link still leads here:\n{link}",
            failure.message
        ));
        std::future::pending().await
    }

    /// Takes the code back.
    pub(crate) async fn close(self) {
        if let Some(announced) = self.announced {
            announced.withdraw().await;
        }
        self.mailbox.close().await;
    }
}

/// What [`Offer::serve`] of an offer that may not be there comes to: waits for ever without one.
pub(crate) async fn betrayed(offer: Option<&mut Offer>, output: Output) -> Failure {
    match offer {
        Some(offer) => offer.serve(output).await,
        None => std::future::pending().await,
    }
}

/// The code that a user gives in place of a link, if it is one.
pub(crate) fn read(text: &str) -> Option<Result<Code, Failure>> {
    Code::is_meant(text).then(|| {
        text.parse().map_err(|error| {
            Failure::usage(format_args!("that is no code: {error}"))
                .help("nothing was sent, so the code can still be used; ask for it again and type it as it is said")
        })
    })
}

/// The relay on which a code is looked for: the one that is named for it, the one that the local network names, or one's own.
pub(crate) async fn relay_for(
    code: &Code,
    named: &CodeRelay,
    own: Option<String>,
    output: Output,
) -> Result<Option<String>, Failure> {
    match (&named.code_relay, named.lan) {
        (Some(_), true) => Err(Failure::usage("give one of `--code-relay` and `--lan`")),
        (Some(relay), false) => Ok(Some(relay.clone())),
        (None, false) => Ok(own),
        (None, true) => {
            let progress = output.progress("looking for the code in the local network");
            let near = lan::look().await?;
            progress.done();
            lan::relay_of(code.number(), &near).map(Some)
        }
    }
}

/// The link that a code stands for. If this profile has used the code before, the one that it was given then: it takes one
/// place.
pub(crate) async fn redeem(
    (profile, socks): (&Profile, Option<&SocksServer>),
    relay: Option<&str>,
    code: &Code,
    output: Output,
) -> Result<Zeroizing<String>, Failure> {
    let relay = relay.ok_or_else(|| {
        Failure::usage("a code is looked for on a relay, and none is named").help(
            "name the relay of the one who gave you the code, with `--relay smp://FINGERPRINT@host` or in the profile's profile.toml",
        )
    })?;
    let place = place(profile, socks, relay)?;
    let relay_key = place.relay.fingerprint();
    if let Some(link) = redeemed::find(profile, &relay_key, code)? {
        output.say("You have used this code already; going on with what it led to.");
        return Ok(link);
    }
    let progress = output.progress("asking for the link behind the code");
    // The code is worth nothing from then on, and this process may die at any time.
    let keep = |link: &str| {
        if let Err(failure) = redeemed::keep(profile, &relay_key, code, link) {
            output.say(format_args!("warning: {}", failure.message));
        }
    };
    let link = Box::pin(mailbox::redeem(&place, code, keep)).await;
    progress.done();
    link.map_err(|error| failure(error, relay))
}

fn place(profile: &Profile, socks: Option<&SocksServer>, relay: &str) -> Result<Place, Failure> {
    let address = parse_address(relay)?;
    way::check_onion(&address, socks)?;
    let password = login::passwords(profile)?.get(&address).cloned();
    let options = ClientOptions {
        socks: socks.cloned(),
        ..ClientOptions::default()
    };
    Ok(Place {
        relay: address,
        options,
        password,
    })
}

/// What to do about a code that was refused at the joiner.
const ASK_AGAIN: &str = "ask for a new code, and whether anybody else used this one; the words are worth nothing any more";

fn failure(error: MailboxError, relay: &str) -> Failure {
    match error {
        MailboxError::Relay(error) => client_failure(error),
        MailboxError::NoQueue => {
            Failure::new(Exit::Unreachable, format_args!("the relay {relay} makes no queue for the code"))
                .help("if it demands a password to create queues, give it with `junto relay login ADDRESS`")
        }
        MailboxError::Lost => Failure::new(Exit::Unreachable, error),
        MailboxError::NoMailbox => Failure::refused(format_args!(
            "no code with this number can be used on {relay}: it was used up, it has expired, somebody tried a wrong one, or it is another relay's"
        ))
        .help("ask for a new code, and on which relay it is (`--relay`)"),
        MailboxError::NoNumber => Failure::new(Exit::Unreachable, format_args!("no number for a code is free on {relay}, or it makes no queues for us"))
            .help("name another relay with `--code-relay`; if it demands a password, give it with `junto relay login ADDRESS`"),
        MailboxError::Unfinished => Failure::refused(error).help(ASK_AGAIN),
        MailboxError::Silent => Failure::new(Exit::Unreachable, "nobody answers to the code")
            .help("ask whether the command that printed it still runs, then try again"),
        MailboxError::Turned(Turned::Refused(Refusal::Wrong)) => {
            Failure::refused("the code is wrong, or the relay changed what passed: nothing was given").help(ASK_AGAIN)
        }
        MailboxError::Turned(Turned::Refused(Refusal::Spent)) => {
            Failure::refused("the code was used up, or somebody tried a wrong one").help(ASK_AGAIN)
        }
        MailboxError::Turned(Turned::Refused(Refusal::Busy)) => {
            Failure::new(Exit::Unreachable, "too many ask for this code at the moment")
                .help("try again in a minute; if it stays so, ask for a new code")
        }
        MailboxError::Turned(Turned::Altered(_)) => Failure::refused(
            "the answer to the code is not from who made it: the code is wrong, or somebody sits in between",
        )
        .help(ASK_AGAIN),
        MailboxError::Wrong => Failure::refused(
            "somebody tried a wrong code: it was a slip, a guess, or the relay changed what passed. Nothing was given, and the code is dead",
        )
        .help("ask who mistyped it, then make a new one"),
        MailboxError::Flooded => Failure::refused("too many asked for the code: it is dead")
            .help("use the link, or another relay: somebody on this one does not want you to meet"),
        MailboxError::Defect(_) => Failure::failed(error).help("this is our fault; please report it"),
    }
}
