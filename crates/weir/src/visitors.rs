//! Visitors of the example shop, made from a seed: what they look at, click, order and pay.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// A source of events. The same seed and instants give the same events.
#[derive(Debug)]
pub struct Visitors {
    random: StdRng,
    seed: u64,
    events: u64,
    orders: u64,
    payments: u64,
    /// Orders that are not paid yet: order, visitor, product, quantity, cents.
    unpaid: Vec<(u64, u64, u64, u64, u64)>,
}

/// What happened within one tick, by input.
#[derive(Debug, Default)]
pub struct Events {
    /// For `/events/site`.
    pub site: Vec<Value>,
    /// For `/events/backend`.
    pub backend: Vec<Value>,
}

const PRICES: [u64; 8] = [2990, 1850, 6400, 5400, 2100, 1250, 620, 3900];
const UNPAID_MAX: usize = 1000;

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn instant(micros: i64) -> String {
    let when = chrono::DateTime::from_timestamp_micros(micros).unwrap_or_default();
    when.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

impl Visitors {
    /// Visitors of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), seed, events: 0, orders: 0, payments: 0, unpaid: Vec::new() }
    }

    fn event_id(&mut self) -> String {
        self.events += 1;
        format!("{}-{}", self.seed, self.events)
    }

    /// About `count` events at `now`, µs since 1970 UTC.
    pub fn tick(&mut self, count: usize, now: i64) -> Events {
        let mut events = Events::default();
        for _ in 0..count {
            // Few visitors come often, many come once.
            let visitor = (self.random.random::<f64>().powi(3) * 5000.0) as u64;
            let product = self.random.random_range(1..=PRICES.len() as u64);
            let sent_at = instant(now - self.random.random_range(0..2_000_000));
            match self.random.random_range(0..100) {
                0..60 => {
                    let looks = self.random.random_bool(0.7);
                    let url = if looks { format!("/product/{product}?ref=home") } else { "/".to_owned() };
                    let event_id = self.event_id();
                    events.site.push(json!({
                        "event": "page_view",
                        "event_id": event_id,
                        "visitor_id": format!("v{visitor}"),
                        "url": url,
                        "product_id": looks.then_some(product),
                        "sent_at": sent_at,
                    }));
                }
                60..85 => {
                    let element = ["add_to_basket", "zoom", "review"][self.random.random_range(0..3)];
                    let event_id = self.event_id();
                    events.site.push(json!({
                        "event": "click",
                        "event_id": event_id,
                        "visitor_id": format!("v{visitor}"),
                        "element": element,
                        "product_id": product,
                        "sent_at": sent_at,
                    }));
                }
                85..94 => {
                    self.orders += 1;
                    let quantity = self.random.random_range(1..4);
                    let order = (self.orders, visitor, product, quantity, PRICES[product as usize - 1] * quantity);
                    events.backend.push(self.order(order, "new", now));
                    if self.unpaid.len() < UNPAID_MAX {
                        self.unpaid.push(order);
                    }
                }
                _ if !self.unpaid.is_empty() => {
                    let index = self.random.random_range(0..self.unpaid.len());
                    let order = self.unpaid.swap_remove(index);
                    if self.random.random_bool(0.1) {
                        let mut gone = self.order(order, "withdrawn", now);
                        gone["withdrawn"] = json!(true);
                        events.backend.push(gone);
                        continue;
                    }
                    self.payments += 1;
                    events.backend.push(self.order(order, "paid", now));
                    events.backend.push(json!({
                        "record": "payment",
                        "payment_id": self.payments,
                        "order_id": order.0,
                        "amount": money(order.4),
                        "paid_at": instant(now),
                    }));
                }
                _ => {}
            }
        }
        events
    }

    fn order(&self, order: (u64, u64, u64, u64, u64), status: &str, now: i64) -> Value {
        let (order_id, visitor, product, quantity, cents) = order;
        json!({
            "record": "order",
            "order_id": order_id,
            "visitor_id": format!("v{visitor}"),
            "customer_id": visitor % 10 + 1,
            "product_id": product,
            "quantity": quantity,
            "amount": money(cents),
            "status": status,
            "updated_at": instant(now),
        })
    }
}
