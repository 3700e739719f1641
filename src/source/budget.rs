//! How fast upstream may be asked before it refuses: a token bucket that learns from upstream's own account. Pure; the
//! clock is an argument.
//!
//! The Hub counts in fixed windows of five minutes and says in each answer what is left (`RateLimit: "api";r=412;t=201`).
//! While nothing was heard, the bucket holds half of the limit and refills with the other half per window: so no window,
//! wherever it begins, sees more than the limit. Once heard, what the Hub says counts: all but the last quarter may be
//! spent at once, and the last quarter is spread over what is left of the window.

use http::HeaderMap;
use std::time::{Duration, Instant, SystemTime};

/// The Hub's windows.
const WINDOW: Duration = Duration::from_secs(300);
/// The part of a limit that is spent evenly and not at once.
const SPREAD_PART: f64 = 0.25;
/// The part of a limit that is left to others when upstream's limit is known and none is configured.
const MARGIN_PART: f64 = 0.1;
/// A question waits no longer than this for its turn; then its client is told to come back, and holds no connection.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(3);
/// No header keeps us silent for longer.
const HOLD_MAX: Duration = Duration::from_secs(600);

/// What upstream says of its limits in one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Requests allowed per window.
    pub(super) limit: Option<u64>,
    /// Requests left in this window, and the time until the next one.
    pub(super) left: Option<(u64, Duration)>,
    /// After a 429: silence until then.
    pub(super) hold: Option<Duration>,
}

impl Account {
    /// Reads the headers of an answer to a request of this kind, by the Hub's name for it (`api`, `resolvers`).
    pub(super) fn read(kind: &str, status: u16, headers: &HeaderMap) -> Account {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        // The Hub may have counted the request as another kind, such as a page: that account is not ours to keep.
        let named = text("ratelimit").and_then(|v| v.split(';').next()).map(|name| name.trim().trim_matches('"'));
        if named.is_some_and(|named| named != kind) {
            return Account { hold: if status == 429 { retry_after(headers) } else { None }, ..Account::default() };
        }
        let left = text("ratelimit").and_then(|v| Some((parameter(v, "r")?, Duration::from_secs(parameter(v, "t")?))));
        let limit = text("ratelimit-policy").and_then(|v| parameter(v, "q"));
        let hold = if status == 429 { retry_after(headers) } else { None };
        Account { limit, left, hold }
    }
}

/// How long upstream asks to wait: `Retry-After` in seconds or as a date to come, or the `t` of an exhausted `RateLimit`.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let asked = text("retry-after").and_then(|v| match v.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(v).ok()?.duration_since(SystemTime::now()).ok(),
    });
    asked.or_else(|| {
        let account = text("ratelimit")?;
        (parameter(account, "r")? == 0).then(|| parameter(account, "t")).flatten().map(Duration::from_secs)
    })
}

/// A number of a header such as `"api";r=412;t=201`.
fn parameter(value: &str, name: &str) -> Option<u64> {
    value.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')?.trim().parse().ok())
}

/// The budget of one kind of question for one account (the mirror's address, or a token).
#[derive(Debug)]
pub(super) struct Budget {
    /// As configured or guessed; `None` asks as fast as clients do, but keeps silent when told to.
    own_limit: Option<f64>,
    /// Per window, as far as is known.
    limit: f64,
    /// Whether upstream's own limit may raise ours.
    follows: bool,
    /// Whether what upstream says in its answers is about this budget.
    learns: bool,
    tokens: f64,
    /// Tokens per second.
    rate: f64,
    counted_at: Instant,
    /// The window that upstream's account speaks of ends then.
    window_ends: Option<Instant>,
    held_until: Option<Instant>,
}

impl Budget {
    /// `limit` requests per window, 0 for no limit. With `follows`, it is a guess that upstream's word replaces; without
    /// `learns`, nothing that upstream says changes it.
    pub(super) fn new(limit: u64, follows: bool, learns: bool, now: Instant) -> Budget {
        let mut budget = Budget {
            own_limit: (limit > 0).then_some(limit as f64),
            limit: limit as f64,
            follows,
            learns,
            tokens: 0.0,
            rate: 0.0,
            counted_at: now,
            window_ends: None,
            held_until: None,
        };
        budget.begin_blind();
        budget
    }

    /// Takes one request's worth for a request that does not wait, unless upstream has asked for silence: later ones wait for it.
    pub(super) fn take_now(&mut self, now: Instant) -> Result<Duration, Duration> {
        if let Some(until) = self.held_until.filter(|until| now < *until) {
            return Err(until - now);
        }
        self.refill(now);
        self.tokens -= 1.0;
        Ok(Duration::ZERO)
    }

    /// Takes one request's worth: the time to wait before it may be sent, or, as the error, when to try again.
    pub(super) fn take(&mut self, now: Instant) -> Result<Duration, Duration> {
        if let Some(until) = self.held_until {
            if now < until {
                return Err(until - now);
            }
            self.held_until = None;
        }
        if self.own_limit.is_none() {
            return Ok(Duration::ZERO);
        }
        self.refill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(Duration::ZERO);
        }
        // Waiters take their turn in advance: the debt makes the next one wait longer.
        let wait = Duration::try_from_secs_f64((1.0 - self.tokens) / self.rate.max(1e-6)).unwrap_or(WINDOW).min(WINDOW);
        if wait > WAIT_MAX {
            return Err(wait);
        }
        self.tokens -= 1.0;
        Ok(wait)
    }

    /// Takes in what an answer says.
    pub(super) fn learn(&mut self, account: &Account, now: Instant) {
        if !self.learns {
            return;
        }
        if let Some(hold) = account.hold {
            let until = now + hold.min(HOLD_MAX);
            self.held_until = Some(self.held_until.map_or(until, |held| held.max(until)));
        }
        let Some(own) = self.own_limit else { return };
        let limit = match account.limit {
            Some(theirs) if self.follows => theirs as f64 * (1.0 - MARGIN_PART),
            Some(theirs) => own.min(theirs as f64),
            None => own,
        };
        self.limit = limit.max(1.0);
        let Some((left, ends_in)) = account.left else { return };
        // What upstream allows beyond our limit belongs to others behind this address.
        let others = account.limit.map_or(0.0, |theirs| (theirs as f64 - limit).max(0.0));
        let left = (left as f64 - others).max(0.0);
        let spread = limit * SPREAD_PART;
        let ends_in = ends_in.clamp(Duration::from_secs(1), WINDOW);
        self.refill(now);
        // Debt of those who wait already is not forgiven.
        let debt = self.tokens.min(0.0);
        self.tokens = if left > spread { left - spread + debt } else { self.tokens.min(1.0).min(left) };
        self.rate = left.min(spread) / ends_in.as_secs_f64();
        self.window_ends = Some(now + ends_in);
    }

    fn refill(&mut self, now: Instant) {
        if self.window_ends.is_some_and(|end| now >= end) {
            self.begin_blind();
        }
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.counted_at = now;
        let full = self.limit / 2.0;
        if self.tokens < full {
            self.tokens = (self.tokens + passed * self.rate).min(full);
        }
    }

    /// The start, and again when a window has ended of which upstream had told.
    fn begin_blind(&mut self) {
        let half = self.limit / 2.0;
        self.window_ends = None;
        self.rate = half / WINDOW.as_secs_f64();
        self.tokens = half.max(1.0) + self.tokens.min(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const SECOND: Duration = Duration::from_secs(1);

    fn account(limit: Option<u64>, left: Option<(u64, u64)>, hold: Option<u64>) -> Account {
        let left = left.map(|(left, seconds)| (left, Duration::from_secs(seconds)));
        Account { limit, left, hold: hold.map(Duration::from_secs) }
    }

    /// Asks as often as allowed for a time, at most so often per second; returns the requests sent.
    fn spend(budget: &mut Budget, from: Instant, seconds: u64, per_second: u64) -> u64 {
        let mut sent = 0;
        for step in 0..seconds * per_second {
            let now = from + SECOND * (step / per_second) as u32;
            sent += u64::from(budget.take(now).is_ok());
        }
        sent
    }

    #[test]
    fn headers_are_read() {
        let check = |status, pairs: &[(&'static str, &'static str)], expected: Account| {
            let headers = pairs.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect();
            assert_eq!(Account::read("api", status, &headers), expected, "{pairs:?}");
        };
        check(200, &[], account(None, None, None));
        check(
            200,
            &[("ratelimit", "\"api\";r=2997;t=258"), ("ratelimit-policy", "\"fixed window\";\"api\";q=3000;w=300")],
            account(Some(3000), Some((2997, 258)), None),
        );
        check(429, &[("ratelimit", "\"api\";r=0;t=55")], account(None, Some((0, 55)), Some(55)));
        check(429, &[("ratelimit", "\"api\";r=0;t=55"), ("retry-after", " 7 ")], account(None, Some((0, 55)), Some(7)));
        check(200, &[("ratelimit", "\"pages\";r=9;t=5"), ("ratelimit-policy", "\"pages\";q=100")], account(None, None, None));
        check(429, &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")], account(None, None, None));
        check(200, &[("ratelimit", "api;r=;t=x;q=-1"), ("ratelimit-policy", "q")], account(None, None, None));
    }

    #[test]
    fn a_date_is_a_wait_as_well() {
        let date = httpdate::fmt_http_date(SystemTime::now() + 40 * SECOND);
        let headers = [(http::header::RETRY_AFTER, HeaderValue::from_str(&date).unwrap())].into_iter().collect();
        let wait = retry_after(&headers).unwrap();
        assert!(30 * SECOND < wait && wait <= 40 * SECOND, "{wait:?}");
    }

    #[test]
    fn no_window_sees_more_than_the_limit_while_upstream_is_silent() {
        let start = Instant::now();
        let mut budget = Budget::new(450, false, true, start);
        let sent = spend(&mut budget, start, 300, 50);
        // The last two of them have a leave to be sent some seconds later.
        assert!((400..=452).contains(&sent), "{sent}");
        let later = spend(&mut budget, start + 300 * SECOND, 300, 50);
        assert!((200..=226).contains(&later), "{later}");
    }

    #[test]
    fn a_short_wait_is_waited_and_a_long_one_told() {
        let start = Instant::now();
        let mut budget = Budget::new(600, false, true, start);
        for _ in 0..300 {
            assert_eq!(budget.take(start), Ok(Duration::ZERO));
        }
        assert_eq!(budget.take(start), Ok(SECOND));
        assert_eq!(budget.take(start), Ok(2 * SECOND));
        assert_eq!(budget.take(start), Ok(3 * SECOND));
        assert_eq!(budget.take(start), Err(4 * SECOND));
        assert_eq!(budget.take(start + 4 * SECOND), Ok(Duration::ZERO));
    }

    #[test]
    fn what_upstream_says_counts() {
        let start = Instant::now();
        let mut budget = Budget::new(450, false, true, start);
        // Fresh window: 500 of 500 are left, 50 of them for others, a quarter of 450 is spread.
        budget.learn(&account(Some(500), Some((500, 300)), None), start);
        let free = (0..500).filter(|_| budget.take(start) == Ok(Duration::ZERO)).count();
        assert_eq!(free, 337);

        // Others have used it up: nothing but the trickle that is left.
        budget.learn(&account(Some(500), Some((110, 60)), None), start);
        let sent = spend(&mut budget, start, 60, 10);
        assert!((50..=65).contains(&sent), "{sent}");
        budget.learn(&account(Some(500), Some((50, 60)), None), start + 60 * SECOND);
        assert!(budget.take(start + 61 * SECOND).is_err());
        // The next window.
        assert_eq!(budget.take(start + 121 * SECOND), Ok(Duration::ZERO));
    }

    #[test]
    fn a_limit_of_ours_is_kept_and_a_guess_is_replaced() {
        let now = Instant::now();
        let policy = account(Some(12_000), Some((12_000, 300)), None);
        let free = |budget: &mut Budget| (0..20_000).filter(|_| budget.take(now) == Ok(Duration::ZERO)).count();
        let mut ours = Budget::new(2700, false, true, now);
        ours.learn(&policy, now);
        assert_eq!(free(&mut ours), 2025);
        let mut guess = Budget::new(2700, true, true, now);
        guess.learn(&policy, now);
        assert_eq!(free(&mut guess), 8100);
    }

    #[test]
    fn silence_is_kept_when_asked_for_even_without_a_limit() {
        let now = Instant::now();
        for limit in [0, 450] {
            let mut budget = Budget::new(limit, false, true, now);
            assert_eq!(budget.take(now), Ok(Duration::ZERO));
            budget.learn(&account(None, None, Some(30)), now);
            budget.learn(&account(None, None, Some(10)), now);
            assert_eq!(budget.take(now + 10 * SECOND), Err(20 * SECOND));
            assert_eq!(budget.take(now + 30 * SECOND), Ok(Duration::ZERO));
            budget.learn(&account(None, None, Some(u64::MAX)), now);
            assert_eq!(budget.take(now), Err(HOLD_MAX));
        }
    }

    #[test]
    fn what_does_not_wait_is_paid_for_by_what_does() {
        let now = Instant::now();
        let mut budget = Budget::new(600, false, true, now);
        while budget.take(now) == Ok(Duration::ZERO) {}
        let before = budget.tokens;
        assert_eq!(budget.take_now(now), Ok(Duration::ZERO));
        assert_eq!(budget.tokens, before - 1.0);
        budget.learn(&account(None, None, Some(30)), now);
        assert_eq!(budget.take_now(now), Err(30 * SECOND));
        assert_eq!(budget.take_now(now + 30 * SECOND), Ok(Duration::ZERO));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let now = Instant::now();
        let mut budget = Budget::new(0, false, true, now);
        budget.learn(&account(Some(500), Some((0, 300)), None), now);
        assert!((0..100_000).all(|_| budget.take(now) == Ok(Duration::ZERO)));
    }

    #[test]
    fn nonsense_does_not_break_it() {
        let now = Instant::now();
        let mut budget = Budget::new(1, true, true, now);
        for (limit, left) in [(0, (0, 0)), (u64::MAX, (u64::MAX, u64::MAX)), (1, (u64::MAX, 0)), (u64::MAX, (0, 0))] {
            budget.learn(&account(Some(limit), Some(left), None), now);
            let _ = budget.take(now);
        }
    }
}
