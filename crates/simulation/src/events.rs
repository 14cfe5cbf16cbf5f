//! What clients send to the beacon, and what lines of closed files say: drawn by chance, written as JSON.

use chrono::DateTime;
use rand::Rng;
use rand::rngs::StdRng;
use weir_environment::Micros;

/// Offers have numbers below this.
pub const OFFERS: i64 = 8;
/// Clicks whose times are older than the newest by more than this are late.
pub const LATENESS: Micros = 10 * MINUTE;
/// A click is a repeat when one with its id was admitted whose time is no further away than this.
pub const REPEATS_WITHIN: Micros = 60 * MINUTE;
/// What a minute is.
pub const MINUTE: Micros = 60_000_000;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody clicked on an offer.
    Click {
        /// Its identity; a client that got no answer sends the same again.
        id: i64,
        /// The offer.
        offer: i64,
        /// When.
        at: Micros,
    },
    /// An offer as it is from now on.
    Offer {
        /// Its key; none breaks the contract.
        offer: Option<i64>,
        /// Its price.
        price: i64,
        /// Its version: a higher one is later, whatever comes first.
        revision: i64,
        /// Whether it is withdrawn.
        gone: bool,
    },
    /// An order of an offer, from a file.
    Order {
        /// Its number.
        order: i64,
        /// The offer.
        offer: i64,
        /// How many.
        amount: i64,
    },
    /// A record that no source asks for.
    Other,
    /// No JSON.
    Broken,
}

/// A record as it is sent: its bytes are its own, whatever it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// What it says.
    pub event: Event,
    /// Its bytes.
    pub raw: Vec<u8>,
}

/// Draws records. Each has a number in its bytes, so that no two are the same.
#[derive(Debug, Default)]
pub struct Writer {
    numbered: u64,
    clicks: i64,
    orders: i64,
    /// Clicks that may be sent again.
    recent: Vec<(i64, i64, Micros)>,
}

impl Writer {
    /// A record for the beacon. `now` is the clients' clock.
    pub fn beacon(&mut self, random: &mut StdRng, now: Micros) -> Sent {
        let event = match random.random_range(0..24) {
            0 => Event::Broken,
            1 => Event::Other,
            2..=6 => Event::Offer {
                offer: random.random_ratio(15, 16).then(|| random.random_range(0..OFFERS)),
                price: random.random_range(1..6),
                revision: random.random_range(0..40),
                gone: random.random_ratio(1, 5),
            },
            7..=9 if !self.recent.is_empty() => {
                let (id, offer, at) = self.recent[random.random_range(0..self.recent.len())];
                // The same again, or what looks so: a little later, or long after.
                let later = match random.random_range(0..4) {
                    0 | 1 => 0,
                    2 => random.random_range(0..REPEATS_WITHIN),
                    _ => random.random_range(0..3 * REPEATS_WITHIN),
                };
                Event::Click { id, offer, at: at + later }
            }
            _ => {
                self.clicks += 1;
                let back = if random.random_ratio(1, 6) { 2 * LATENESS } else { MINUTE };
                let at = now - random.random_range(0..back);
                let click = (self.clicks, random.random_range(0..OFFERS), at);
                self.recent.push(click);
                if self.recent.len() > 30 {
                    self.recent.remove(0);
                }
                Event::Click { id: click.0, offer: click.1, at }
            }
        };
        self.write(event)
    }

    /// A line of a file.
    pub fn line(&mut self, random: &mut StdRng) -> Sent {
        let event = if random.random_ratio(1, 20) {
            Event::Broken
        } else {
            self.orders += 1;
            let (offer, amount) = (random.random_range(0..OFFERS), random.random_range(1..10));
            Event::Order { order: self.orders, offer, amount }
        };
        self.write(event)
    }

    fn write(&mut self, event: Event) -> Sent {
        self.numbered += 1;
        let n = self.numbered;
        let raw = match &event {
            Event::Click { id, offer, at } => {
                let at = timestamp(*at);
                format!(r#"{{"kind": "click", "id": {id}, "offer": {offer}, "at": "{at}", "n": {n}}}"#)
            }
            Event::Offer { offer, price, revision, gone } => {
                let offer = offer.map_or_else(|| "null".to_owned(), |offer| offer.to_string());
                let rest = format!(r#""price": {price}, "revision": {revision}, "gone": {gone}, "n": {n}"#);
                format!(r#"{{"kind": "offer", "offer": {offer}, {rest}}}"#)
            }
            Event::Order { order, offer, amount } => {
                format!(r#"{{"order": {order}, "offer": {offer}, "amount": {amount}, "n": {n}}}"#)
            }
            Event::Other => format!(r#"{{"kind": "other", "n": {n}}}"#),
            Event::Broken => format!("{{broken {n}"),
        };
        Sent { event, raw: raw.into_bytes() }
    }
}

fn timestamp(at: Micros) -> String {
    DateTime::from_timestamp_micros(at).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
