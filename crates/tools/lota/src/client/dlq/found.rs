//! The letters in hand: got from the broker, described, and chosen from.
use std::collections::BTreeSet;

use anyhow::{anyhow, bail};
use bot_core::{DeadLetters, Envelope, Letter, Why};
use bot_messages::{BotName, Digest, contract::operator_name, keys, message::DeadLetterRef};
use serde_json::{Value, json};
use sha2::Digest as _;

use super::fingerprint::{PREFIX, fingerprint, normalised};
use crate::{
    exit::{Exit, OrExit},
    home::Home,
};

/// Letters that are held at a time, and how large they may be together.
const LETTERS_MAX: usize = 10_000;
const BYTES_MAX: usize = 256 * 1024 * 1024;
/// Fewer letters of an id are no name.
const ID_LETTERS_MIN: usize = 4;
const DEAD: &str = ".dead";

/// One letter, described.
pub(super) struct Found {
    pub(super) letter: Letter,
    pub(super) about: DeadLetterRef,
    pub(super) why: Why,
    /// The error with placeholders.
    pub(super) normalised: String,
}

/// All that were looked at. The broker has them back when it is closed, or gone.
pub(super) struct Hand {
    session: DeadLetters,
    pub(super) letters: Vec<Found>,
    /// (bot, how many lie in its queue that were not looked at)
    pub(super) unseen: Vec<(String, u32)>,
}

impl Hand {
    /// Takes up the letters of one bot, or of all.
    pub(super) async fn take(home: &Home, bot: Option<&str>) -> anyhow::Result<Self> {
        let bots = bots(home, bot).await?;
        let session = DeadLetters::open(&home.bus(operator_name().as_str())?).await;
        let session = session.map_err(|why| anyhow!("no session with the broker: {why}; is the fleet up?"));
        let mut hand = Self { session: session.or_exit(Exit::Unavailable)?, letters: Vec::new(), unseen: Vec::new() };
        let (mut room, mut bytes) = (LETTERS_MAX, BYTES_MAX);
        for bot in bots {
            // Those that come meanwhile are for the next look.
            let mut behind = 1;
            while behind > 0 && room > 0 && bytes > 0 {
                let next = hand.session.next(&bot).await;
                let next = next.map_err(|why| anyhow!("the dead letters cannot be read: {why}"));
                let Some(letter) = next.or_exit(Exit::Unavailable)? else {
                    behind = 0;
                    break;
                };
                (behind, room, bytes) = (letter.behind, room - 1, bytes.saturating_sub(letter.body.len()));
                hand.letters.push(describe(letter)?);
            }
            if behind > 0 {
                hand.unseen.push((bot, behind));
            }
        }
        // The queue's own order is nothing to rely on: what goes back may come in another.
        hand.letters.sort_by(|a, b| a.place().cmp(&b.place()));
        bot_core::crash_point("dlq: looked");
        Ok(hand)
    }

    /// Gives back what was not settled.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        for found in &self.letters {
            found.letter.give_back().await;
        }
        self.session.close().await.map_err(|why| anyhow!("the broker's last word is missing: {why}; look again"))
    }

    /// Which letters are meant: by fingerprint, by id or its beginning, or by the digest of the body.
    pub(super) fn choose(&self, which: &[String]) -> anyhow::Result<Vec<usize>> {
        let mut chosen = BTreeSet::new();
        for word in which {
            chosen.extend(self.named(word)?);
        }
        Ok(chosen.into_iter().collect())
    }

    fn named(&self, word: &str) -> anyhow::Result<Vec<usize>> {
        let names: Vec<[&str; 3]> = self.letters.iter().map(Found::names).collect();
        pick(&names, word)
    }
}

/// The letters that a word names; `names` are a letter's id, digest and fingerprint.
fn pick(names: &[[&str; 3]], word: &str) -> anyhow::Result<Vec<usize>> {
    let those = |fits: &dyn Fn(&[&str; 3]) -> bool| (0..names.len()).filter(|i| fits(&names[*i])).collect::<Vec<_>>();
    let exact = those(&|names| names.contains(&word));
    if !exact.is_empty() {
        return Ok(exact);
    }
    let begin = if word.len() < ID_LETTERS_MIN || word.starts_with(PREFIX) {
        Vec::new()
    } else {
        those(&|names| names[0].starts_with(word) || names[1].starts_with(word))
    };
    let ids: BTreeSet<&str> = begin.iter().map(|i| names[*i][0]).collect();
    match ids.len() {
        1 => Ok(begin),
        0 => Err(Exit::Usage.of(anyhow!(
            "no letter `{word}` is among the {} that were looked at: `lota dlq list` names groups, `lota dlq show fp-…` the \
             letters of one; a letter that someone else looks at just now is there again afterwards",
            names.len()
        ))),
        n => Err(Exit::Usage.of(anyhow!("`{word}` fits {n} messages: give more of the id"))),
    }
}

impl Found {
    fn place(&self) -> (&str, &str, &str) {
        (&self.about.bot, &self.why.at, self.name())
    }

    fn names(&self) -> [&str; 3] {
        let id = self.about.message_id.as_deref().unwrap_or_default();
        [id, self.about.digest.as_str(), &self.about.fingerprint]
    }

    /// The message's id, or the digest of its body where it has none.
    pub(super) fn name(&self) -> &str {
        self.about.message_id.as_deref().unwrap_or_else(|| self.about.digest.as_str())
    }

    pub(super) fn envelope(&self) -> Option<Envelope> {
        Envelope::decode(&self.letter.body).ok()
    }

    pub(super) fn is_proven(&self) -> bool {
        self.letter.publisher().is_some()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "letter": self.about, "proven": self.is_proven(), "error": self.why.error, "at": self.why.at,
            "attempts": self.why.attempts,
        })
    }
}

fn describe(letter: Letter) -> anyhow::Result<Found> {
    let why = letter.why();
    let body: Value = serde_json::from_slice(&letter.body).unwrap_or_default();
    let text = |field: &str| body.get(field).and_then(Value::as_str).filter(|s| s.len() <= 128).map(str::to_owned);
    let message_id = letter.properties.message_id.clone().or_else(|| text("id"));
    let message_type = letter.properties.event_type.clone().or_else(|| text("type"));
    let publisher = letter.publisher().map(str::to_owned);
    let own: Vec<&str> = [&message_id, &publisher].into_iter().flatten().map(String::as_str).collect();
    let normalised = normalised(&why.error, &own);
    let about = DeadLetterRef {
        fingerprint: fingerprint(&letter.bot, &why.code, &normalised),
        bot: letter.bot.clone(),
        code: why.code.clone(),
        message_id,
        message_type,
        publisher,
        digest: Digest::from_hex(&hex_of(&letter.body))?,
        bytes: letter.body.len() as u64,
    };
    Ok(Found { letter, about, why, normalised })
}

/// SHA-256 in hex.
pub(super) fn hex_of(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    sha2::Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Slugs of the bots with dead letters, or of the one that is meant.
async fn bots(home: &Home, bot: Option<&str>) -> anyhow::Result<Vec<String>> {
    let queues = home.management()?.queues(keys::VHOST).await.or_exit(Exit::Unavailable)?;
    let mut known: Vec<String> =
        queues.iter().filter_map(|q| q.name.strip_suffix(DEAD)).map(ToOwned::to_owned).collect();
    known.sort_unstable();
    let Some(bot) = bot else { return Ok(known) };
    let wanted = bot.parse::<BotName>().or_exit(Exit::Usage)?.slug();
    if !known.contains(&wanted) {
        bail!("no bot {bot} is in this fleet (NOT_REGISTERED): expected one of {}", known.join(", "));
    }
    Ok(vec![wanted])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_named_by_id_beginning_digest_or_fingerprint() {
        let all = [["aaaa-1", "sha256:01", "fp-1"], ["aaaa-2", "sha256:02", "fp-1"], ["bbbb-1", "sha256:03", "fp-2"]];
        for (word, expected) in [("aaaa-2", [1].as_slice()), ("bbbb", &[2]), ("sha256:01", &[0]), ("fp-1", &[0, 1])] {
            assert_eq!(pick(&all, word).unwrap(), expected, "{word}");
        }
        for (word, part) in [("aaaa", "fits 2"), ("9", "no letter"), ("", "no letter"), ("fp-", "no letter")] {
            assert!(pick(&all, word).unwrap_err().to_string().contains(part), "{word}");
        }
    }

    #[test]
    fn an_id_that_came_twice_names_both() {
        let all = [["twice", "sha256:01", "fp-1"], ["twice", "sha256:02", "fp-1"]];
        assert_eq!(pick(&all, "twice").unwrap(), [0, 1]);
        assert_eq!(pick(&all, "twic").unwrap(), [0, 1]);
    }
}
