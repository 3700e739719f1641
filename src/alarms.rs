//! What the operator should be told of at once, and how often.
//!
//! Whoever meets trouble calls [`raise`], which costs nothing where nobody listens and never waits. What is told of it, and when, is
//! decided by [`Docket`], a pure one: the clock is an argument.

use crate::metrics::metrics;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Alarms on their way to who tells them. More than so many at a moment say nothing new.
const RAISED_MAX: usize = 256;
/// A subject is told of at once, and then not again for so long: what happens meanwhile is told as one.
const QUIET: Duration = Duration::from_secs(60);

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A configured upstream does not answer.
    UpstreamDown { upstream: String, cause: String },
    /// It does again.
    UpstreamBack { upstream: String },
    /// There is too little room, all eviction done.
    DiskShort { cause: String },
    /// There is room again.
    DiskEased,
    /// Bytes were not what their name or their checksum says. They were not served, and are fetched again.
    Corruption { what: String },
}

/// One message to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `upstream`, `disk` or `corruption`.
    pub alarm: &'static str,
    /// Which upstream; empty for the others.
    pub subject: String,
    /// False once it is over.
    pub is_firing: bool,
    /// How often it has happened since the last message on it.
    pub count: u64,
    pub text: String,
}

static RAISED: OnceLock<mpsc::Sender<Alarm>> = OnceLock::new();

/// Returns what is raised in this process from now on; `None` if somebody has asked before.
pub fn listen() -> Option<mpsc::Receiver<Alarm>> {
    let (sender, receiver) = mpsc::channel(RAISED_MAX);
    RAISED.set(sender).ok().map(|()| receiver)
}

/// How long room counts as short after it was found so the last time.
const CALM: Duration = Duration::from_secs(300);

/// Whether there is too little room. It is over once nothing has been short of it for a while: a pass that only measures finds nothing
/// wrong as soon as nobody wants to write, and the next write finds none again.
#[derive(Debug, Default)]
struct Shortage {
    last: Option<Instant>,
    /// What was passed on last; at first that all is well.
    raised: bool,
}

impl Shortage {
    /// Notes whether room was short just now, and returns whether it counts as that. If that is news `pass_on` is called, now and each
    /// time until it takes it: there may be too many alarms at a moment, and this one is raised only when it begins and ends.
    fn note(&mut self, is_short: bool, now: Instant, pass_on: impl FnOnce() -> bool) -> bool {
        if is_short {
            self.last = Some(now);
        }
        self.last = self.last.filter(|last| now.duration_since(*last) < CALM);
        let counts = self.last.is_some();
        // What begins is passed on by those who find it so, who know the cause.
        if counts != self.raised && counts == is_short && pass_on() {
            self.raised = counts;
        }
        counts
    }
}

static SHORTAGE: Mutex<Shortage> = Mutex::new(Shortage { last: None, raised: false });

/// There is no room for what should be kept: a write was told so, or a limit is passed and no more can go. The metric says it at once.
pub fn disk_short(cause: impl FnOnce() -> String) {
    // Under the lock, or the metric of one that finds it over could come last.
    let mut shortage = SHORTAGE.lock().unwrap_or_else(PoisonError::into_inner);
    shortage.note(true, Instant::now(), || offer(|| Alarm::DiskShort { cause: cause() }) == Some(true));
    metrics().disk_short.set(1);
}

/// Nothing is short just now; after a while of that it is over. Cheap; call it often.
pub fn disk_fits() {
    let mut shortage = SHORTAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = shortage.note(false, Instant::now(), || offer(|| Alarm::DiskEased) == Some(true));
    metrics().disk_short.set(counts.into());
}

/// Passes an alarm on, if anybody listens and is not overwhelmed.
pub fn raise(alarm: impl FnOnce() -> Alarm) {
    if offer(alarm) == Some(false) {
        metrics().alarm("dropped");
    }
}

/// Passes an alarm on, and returns whether it was taken; `None` if nobody listens.
fn offer(alarm: impl FnOnce() -> Alarm) -> Option<bool> {
    RAISED.get().map(|sender| sender.try_send(alarm()).is_ok())
}

/// What there is to tell, by subject.
#[derive(Debug, Default)]
pub struct Docket {
    subjects: BTreeMap<(&'static str, String), Subject>,
}

#[derive(Debug, Default)]
struct Subject {
    /// What was said last; at first that all is well.
    told_firing: bool,
    told_at: Option<Instant>,
    /// The latest, with the count of all since the last message.
    pending: Option<Message>,
}

impl Docket {
    /// Notes an alarm. What is already told is not noted again.
    pub fn note(&mut self, alarm: Alarm) {
        let message = Message::of(alarm);
        let subject = self.subjects.entry((message.alarm, message.subject.clone())).or_default();
        let lasts = message.alarm != "corruption";
        if lasts && message.is_firing == subject.told_firing {
            // As it was told; whatever came between is over.
            subject.pending = None;
            return;
        }
        let count = subject.pending.as_ref().map_or(0, |pending| pending.count) + 1;
        subject.pending = Some(Message { count, ..message });
    }

    /// Returns when the next message is due; `None` while there is nothing to tell.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.subjects.values().filter(|subject| subject.pending.is_some()).map(|subject| subject.due(now)).min()
    }

    /// Takes a message that is due.
    pub fn take(&mut self, now: Instant) -> Option<Message> {
        let subject = self.subjects.values_mut().find(|subject| subject.pending.is_some() && subject.due(now) <= now)?;
        let message = subject.pending.take()?;
        subject.told_at = Some(now);
        subject.told_firing = message.is_firing;
        Some(message)
    }
}

impl Subject {
    fn due(&self, now: Instant) -> Instant {
        self.told_at.map_or(now, |told_at| told_at + QUIET)
    }
}

impl Message {
    fn of(alarm: Alarm) -> Message {
        let message = |alarm, subject, is_firing, text| Message { alarm, subject, is_firing, count: 1, text };
        match alarm {
            Alarm::UpstreamDown { upstream, cause } => {
                let text = format!("the mirror's upstream {upstream} is down: {cause}; what is kept is served");
                message("upstream", upstream, true, text)
            }
            Alarm::UpstreamBack { upstream } => {
                let text = format!("the mirror's upstream {upstream} answers again");
                message("upstream", upstream, false, text)
            }
            Alarm::DiskShort { cause } => {
                let text = format!("the mirror's disk is too full to keep more: {cause}; downloads go on past the disk");
                message("disk", String::new(), true, text)
            }
            Alarm::DiskEased => message("disk", String::new(), false, "the mirror's disk has room again".to_owned()),
            Alarm::Corruption { what } => {
                let text = format!("the mirror has found wrong bytes: {what}; they are fetched again");
                message("corruption", String::new(), true, text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_over_once_nothing_has_fallen_short_for_a_while() {
        let (mut shortage, now) = (Shortage::default(), Instant::now());
        let mut raised = 0;
        let mut note = |is_short, now| {
            shortage.note(is_short, now, || {
                raised += 1;
                true
            })
        };
        assert!(!note(false, now));
        assert!(note(true, now));
        // As a fill that finds no room and a look that finds no limit passed take turns.
        for minute in 1..20 {
            let now = now + Duration::from_secs(60) * minute;
            assert!(note(minute % 2 == 0, now), "{minute}");
        }
        let last = now + Duration::from_secs(60) * 18;
        assert!(note(false, last + CALM - Duration::from_secs(1)));
        assert!(!note(false, last + CALM) && !note(false, last + CALM * 2));
        assert_eq!(raised, 2, "once as it begins, and once as it ends");
    }

    #[test]
    fn a_shortage_is_passed_on_until_it_is_taken() {
        let (mut shortage, now) = (Shortage::default(), Instant::now());
        for (is_short, now) in [(true, now), (false, now + CALM), (true, now + CALM), (false, now + CALM * 2)] {
            let mut tries = 0;
            for _ in 0..5 {
                let counts = shortage.note(is_short, now, || {
                    tries += 1;
                    tries == 3
                });
                assert_eq!(counts, is_short);
            }
            assert_eq!(tries, 3, "until it is taken, and not again");
        }
        // What never got through need not be taken back.
        assert!(shortage.note(true, now + CALM * 2, || false));
        assert!(!shortage.note(false, now + CALM * 3, || panic!("nobody was told")));
    }

    fn down() -> Alarm {
        Alarm::UpstreamDown { upstream: "hub".into(), cause: "silence".into() }
    }

    fn back() -> Alarm {
        Alarm::UpstreamBack { upstream: "hub".into() }
    }

    #[test]
    fn a_change_is_told_once_and_its_end_too() {
        let (mut docket, now) = (Docket::default(), Instant::now());
        docket.note(back());
        docket.note(Alarm::DiskEased);
        assert_eq!(docket.due(now), None, "that all is well is no news");
        docket.note(down());
        docket.note(down());
        assert_eq!(docket.due(now), Some(now));
        let told = docket.take(now).unwrap();
        assert_eq!((told.alarm, told.is_firing, told.count), ("upstream", true, 2));
        assert!(told.text.contains("hub") && told.text.contains("silence"));
        docket.note(down());
        assert_eq!((docket.due(now), docket.take(now)), (None, None));
        docket.note(back());
        assert_eq!(docket.due(now), Some(now + QUIET));
        assert_eq!(docket.take(now + QUIET / 2), None);
        assert!(!docket.take(now + QUIET).unwrap().is_firing);
    }

    #[test]
    fn what_comes_and_goes_is_told_as_it_stands_in_the_end() {
        let (mut docket, now) = (Docket::default(), Instant::now());
        docket.note(down());
        docket.take(now).unwrap();
        for _ in 0..100 {
            docket.note(back());
            docket.note(down());
        }
        assert_eq!(docket.due(now), None);
        docket.note(back());
        assert!(!docket.take(now + QUIET).unwrap().is_firing);
    }

    #[test]
    fn corruption_is_news_each_time_but_one_message_a_minute() {
        let (mut docket, now) = (Docket::default(), Instant::now());
        for n in 0..10 {
            docket.note(Alarm::Corruption { what: format!("object {n}") });
            if n == 0 {
                assert_eq!(docket.take(now).unwrap().count, 1);
            }
        }
        docket.note(down());
        assert_eq!(docket.take(now).unwrap().alarm, "upstream", "subjects do not wait for each other");
        assert_eq!(docket.take(now), None);
        let told = docket.take(now + QUIET).unwrap();
        assert_eq!(told.count, 9);
        assert!(told.text.contains("object 9"));
    }
}
