//! `dingospeed status`: asks a running mirror whether it is well, by its address; or by its directory, and then what it is doing.

use super::{
    client::{AskError, Client, whole},
    counted, failed,
    ls::Format,
    table::Table,
};
use crate::admin::{self, Activity, Answer, AskError as AskedError, Request, Status};
use http::Uri;
use indicatif::HumanBytes;
use serde_json::json;
use std::{
    io,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// A mirror that is well answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Speed is measured over this time.
const MEASURED_FOR: Duration = Duration::from_millis(500);

/// Prints the mirror's answer to stdout; without a good one says why on stderr and fails.
pub fn run(mirror: &Uri, format: Format) -> ExitCode {
    match ask(mirror) {
        Ok(answer) => {
            match format {
                Format::Table => println!("{}", answer.trim_end()),
                Format::Json => {
                    let told = serde_json::from_str(&answer).unwrap_or_else(|_| json!(answer.trim_end()));
                    println!("{}", json!({ "url": mirror.to_string(), "answer": told }));
                }
                Format::Quiet => {}
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("dingospeed: {mirror} is not well: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what the server that has this directory tells of itself, its disk and its work.
pub fn of_directory(root: &Path, format: Format) -> ExitCode {
    let status = match admin::ask(root, &Request::Status) {
        Ok(Answer::Status(status)) => status,
        Ok(other) => return failed(&format!("the server answered something else: {other:?}")),
        Err(AskedError::Broken(error)) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return failed(&format!(
                "no server serves {0}: it has no admin.sock that answers; start one with `dingospeed serve --repos {0}`, or name its \
                 directory",
                root.display()
            ));
        }
        Err(error) => return failed(&format!("cannot ask the server of {}: {error}", root.display())),
    };
    if format == Format::Quiet {
        return ExitCode::SUCCESS;
    }
    let work = match work(root) {
        Ok(work) => work,
        Err(why) => return failed(&why),
    };
    match format {
        Format::Json => println!("{}", json_of(&status, &work)),
        _ => print!("{}", table(&status, &work)),
    }
    ExitCode::SUCCESS
}

/// What the server does, and bytes per second to clients and from upstream.
struct Work {
    activity: Activity,
    sent_per_second: u64,
    received_per_second: u64,
}

fn work(root: &Path) -> Result<Work, String> {
    let read = || match admin::ask(root, &Request::Activity) {
        Ok(Answer::Activity(activity)) => Ok(activity),
        Ok(other) => Err(format!("the server answered something else: {other:?}")),
        Err(error) => Err(format!("the server does not tell what it is doing: {error}")),
    };
    let (began, before) = (Instant::now(), read()?);
    thread::sleep(MEASURED_FOR);
    let activity = read()?;
    let per_second = |before: u64, now: u64| (now.saturating_sub(before) as f64 / began.elapsed().as_secs_f64()) as u64;
    Ok(Work {
        sent_per_second: per_second(before.sent.to_clients, activity.sent.to_clients),
        received_per_second: per_second(before.sent.from_upstream, activity.sent.from_upstream),
        activity,
    })
}

fn json_of(status: &Status, work: &Work) -> serde_json::Value {
    let mut value = json!(status);
    value["activity"] = json!(work.activity);
    value["activity"]["hit_percent"] = json!(work.activity.hit_percent());
    value["activity"]["sent_per_second"] = json!(work.sent_per_second);
    value["activity"]["received_per_second"] = json!(work.received_per_second);
    value
}

fn table(status: &Status, work: &Work) -> String {
    let bytes = HumanBytes;
    let Work { activity, sent_per_second, received_per_second } = work;
    let upstreams: Vec<String> = activity
        .upstreams
        .iter()
        .map(|one| format!("{} {}", one.name, if one.up { "up" } else { "DOWN" }))
        .chain(activity.upstreams.is_empty().then(|| "not asked yet".to_owned()))
        .collect();
    let mut table = Table::new(&["WHAT", "NOW"]);
    table.row(["server".into(), format!("pid {}, version {}", status.pid, status.version)]);
    table.row([
        "disk".into(),
        format!("{} kept, {} free of {}", bytes(status.kept_bytes), bytes(status.free_bytes), bytes(status.total_bytes)),
    ]);
    let (requests, connections) = (counted(activity.requests, "request"), counted(activity.connections, "connection"));
    table.row(["clients".into(), format!("{requests} on {connections}")]);
    table.row(["flights".into(), activity.flights.to_string()]);
    table.row([
        "speed".into(),
        format!("{}/s to clients, {}/s from upstream", bytes(*sent_per_second), bytes(*received_per_second)),
    ]);
    table.row([
        "traffic".into(),
        format!(
            "{} to clients, {} from upstream; {} of files saved",
            bytes(activity.sent.to_clients),
            bytes(activity.sent.from_upstream),
            bytes(activity.saved_len())
        ),
    ]);
    let hits = activity.hit_percent().map_or("-".to_owned(), |percent| format!("{percent}% of the blocks that were wanted"));
    table.row(["hits".into(), hits]);
    table.row([
        "upstream".into(),
        format!(
            "{}; {} of {} failed",
            upstreams.join(", "),
            activity.upstream_failures,
            counted(activity.upstream_requests, "request")
        ),
    ]);
    table.row([
        "trouble".into(),
        format!("{} found, {} of the disk", counted(activity.broken, "broken piece"), counted(activity.disk_errors, "error")),
    ]);
    table.text()
}

fn ask(mirror: &Uri) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let client = Client::new(authority(mirror), None);
    let target = format!("{}/healthz", mirror.path().trim_end_matches('/'));
    let answer = async {
        let response = client.get(&target, 0).await?;
        Ok::<_, AskError>(String::from_utf8_lossy(&whole(response).await?).into_owned())
    };
    match runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, answer).await }) {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {ANSWER_MAX:?}")),
    }
}

/// Returns `HOST:PORT`.
fn authority(mirror: &Uri) -> String {
    format!("{}:{}", mirror.host().unwrap_or_default(), mirror.port_u16().unwrap_or(80))
}
