//! Tells the operator's webhook of alarms: one message after the other, each tried again for a while. Nothing waits for it.

use crate::{
    alarms::{Alarm, Docket, Message},
    metrics::metrics,
    source::Hook,
};
use std::time::{Duration, Instant};
use tokio::{sync::mpsc, time::sleep};

/// The waits between tries of one message: about ten minutes together. By then the receiver's own absence is the news.
const WAITS: [Duration; 9] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(180),
    Duration::from_secs(180),
];

/// Tells what is raised, for ever; drop it to stop.
pub(super) async fn tell(mut raised: mpsc::Receiver<Alarm>, hook: Hook) {
    let mut docket = Docket::default();
    loop {
        // Taken before each message, so that it says how things stand and not how they stood.
        while let Ok(alarm) = raised.try_recv() {
            docket.note(alarm);
        }
        let now = Instant::now();
        if let Some(message) = docket.take(now) {
            // What is raised meanwhile waits in the channel, which is bounded.
            deliver(&hook, &message).await;
            continue;
        }
        let due = docket.due(now);
        tokio::select! {
            alarm = raised.recv() => match alarm {
                Some(alarm) => docket.note(alarm),
                None => return,
            },
            () = sleep(due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))), if due.is_some() => {}
        }
    }
}

async fn deliver(hook: &Hook, message: &Message) {
    let json = bytes::Bytes::from(json(message).to_string());
    for wait in WAITS.into_iter().map(Some).chain([None]) {
        match (hook.post(json.clone()).await, wait) {
            (Ok(()), _) => return metrics().alarm("told"),
            (Err(error), Some(wait)) => {
                log::debug!("alarm={} is told again in {wait:?}: {error}", message.alarm);
                sleep(wait).await;
            }
            (Err(error), None) => {
                metrics().alarm("failed");
                log::error!(
                    "alerts.webhook does not take alarm={} text={:?} error={:?}",
                    message.alarm,
                    message.text,
                    error.to_string()
                );
            }
        }
    }
}

/// `text` is what chat systems show of a message.
fn json(message: &Message) -> serde_json::Value {
    serde_json::json!({
        "alarm": message.alarm,
        "state": if message.is_firing { "firing" } else { "resolved" },
        "subject": message.subject,
        "count": message.count,
        "text": message.text,
        "time": format!("{:.0}", jiff::Timestamp::now()),
        "version": env!("CARGO_PKG_VERSION"),
    })
}
