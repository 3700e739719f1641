//! The rules in force: which request each strikes, when, and what it does to it. Tests make them through `faults`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};

use crate::content::splitmix;
use crate::faults::Fault;
use crate::gate::Barrier;
use crate::log::Listener;

/// One thing that goes wrong. All byte counts are of the body of the answer it strikes.
#[derive(Clone)]
pub(crate) enum Action {
    CutAfter { bytes: u64, reset: bool },
    Short { bytes: u64, chunked: bool },
    Longer(u64),
    Flip(u64),
    IgnoreRange,
    WrongContentRange,
    WrongTotal,
    ChangedEtag,
    HangBeforeHead,
    HangAfter(u64),
    Status { code: u16, headers: Vec<(String, String)> },
    RedirectTo(String),
    RedirectLoop,
    Rate(u64),
    Latency(Duration),
    Hold(Barrier),
    HoldAfter(u64, Barrier),
}

/// Which requests a rule strikes.
#[derive(Clone, Default)]
pub(crate) struct Aim {
    pub(crate) needle: String,
    pub(crate) listener: Option<Listener>,
    pub(crate) method: Option<Method>,
    pub(crate) ranged: bool,
    /// This many matching requests pass unharmed first.
    pub(crate) after: u64,
    pub(crate) times: Option<u64>,
    pub(crate) chance: Option<(f64, u64)>,
}

pub(crate) struct Rule {
    aim: Aim,
    action: Action,
    /// Guards the counting: seen, struck, and the dice.
    count: Mutex<(u64, u64, u64)>,
    pub(crate) hits: AtomicU64,
    pub(crate) lifted: AtomicBool,
}

/// A request as the rules see it.
pub(crate) struct Subject<'a> {
    pub(crate) listener: Listener,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    /// Decoded path, a space, decoded query, a space, and on the CDN the file that is meant.
    pub(crate) text: &'a str,
}

/// An answer as the rules see it, before its body starts.
pub(crate) struct Reply<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    /// First byte and length of what the body holds of its file.
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Rule {
    /// Tells whether this rule strikes now, and counts.
    fn strikes(&self, subject: &Subject<'_>) -> bool {
        let aim = &self.aim;
        let aimed = !self.lifted.load(Relaxed)
            && subject.text.contains(&aim.needle)
            && aim.listener.is_none_or(|listener| listener == subject.listener)
            && aim.method.as_ref().is_none_or(|method| method == subject.method)
            && (!aim.ranged || subject.headers.contains_key("range"));
        if !aimed {
            return false;
        }
        let mut count = self.count.lock().unwrap_or_else(|broken| broken.into_inner());
        let (seen, struck, dice) = &mut *count;
        *seen += 1;
        if *seen <= aim.after || aim.times.is_some_and(|times| *struck >= times) {
            return false;
        }
        if let Some((chance, _)) = aim.chance
            && (splitmix(dice) >> 11) as f64 / (1u64 << 53) as f64 >= chance
        {
            return false;
        }
        *struck += 1;
        self.hits.fetch_add(1, Relaxed);
        true
    }

    /// Tells whether the rule acts before there is an answer, and can act on this request at all.
    fn acts_on_request(&self, subject: &Subject<'_>) -> bool {
        match &self.action {
            Action::IgnoreRange => subject.headers.contains_key("range"),
            Action::Hold(barrier) => !barrier.is_open(),
            Action::HangBeforeHead
            | Action::Status { .. }
            | Action::RedirectTo(_)
            | Action::RedirectLoop
            | Action::Latency(_) => true,
            _ => false,
        }
    }

    fn acts_on_reply(&self, subject: &Subject<'_>, reply: &Reply<'_>) -> bool {
        let body = subject.method != Method::HEAD && reply.status.is_success() && reply.len > 0;
        match &self.action {
            Action::CutAfter { bytes, .. } | Action::Short { bytes, .. } => body && *bytes < reply.len,
            Action::Longer(_) | Action::HangAfter(_) | Action::Rate(_) => body,
            Action::HoldAfter(_, barrier) => body && !barrier.is_open(),
            Action::Flip(offset) => body && (reply.start..reply.start + reply.len).contains(offset),
            Action::WrongContentRange | Action::WrongTotal => reply.status == StatusCode::PARTIAL_CONTENT,
            Action::ChangedEtag => reply.headers.contains_key("etag") || reply.headers.contains_key("x-linked-etag"),
            _ => false,
        }
    }
}

/// All rules; each request asks it twice, before and after the answer is made.
#[derive(Default)]
pub(crate) struct Rules {
    rules: Mutex<Vec<Arc<Rule>>>,
}

impl Rules {
    pub(crate) fn on_request(&self, subject: &Subject<'_>) -> Vec<Action> {
        self.struck(|rule| rule.acts_on_request(subject) && rule.strikes(subject))
    }

    pub(crate) fn on_reply(&self, subject: &Subject<'_>, reply: &Reply<'_>) -> Vec<Action> {
        self.struck(|rule| rule.acts_on_reply(subject, reply) && rule.strikes(subject))
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn add(&self, aim: Aim, action: Action) -> Fault {
        let dice = aim.chance.map_or(0, |(_, seed)| seed);
        let count = Mutex::new((0, 0, dice));
        let rule = Arc::new(Rule { aim, action, count, hits: AtomicU64::new(0), lifted: AtomicBool::new(false) });
        self.lock().push(rule.clone());
        Fault { rule }
    }

    fn struck(&self, mut strikes: impl FnMut(&Rule) -> bool) -> Vec<Action> {
        let rules = self.lock();
        rules.iter().filter(|rule| strikes(rule)).map(|rule| rule.action.clone()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Rule>>> {
        self.rules.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}
