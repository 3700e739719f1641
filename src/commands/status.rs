//! `dingospeed status`: asks a running mirror whether it is well, by its address or by its directory.

use super::{
    client::{AskError, Client, whole},
    failed,
};
use crate::admin;
use http::Uri;
use std::{path::Path, process::ExitCode, time::Duration};

/// A mirror that is well answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Prints the mirror's answer to stdout; without a good one says why on stderr and fails.
pub fn run(mirror: &Uri) -> ExitCode {
    match ask(mirror) {
        Ok(answer) => {
            println!("{}", answer.trim_end());
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("dingospeed: {mirror} is not well: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what the server that has this directory tells of itself and its disk, as JSON.
pub fn of_directory(root: &Path) -> ExitCode {
    match admin::ask(root, &admin::Request::Status) {
        Ok(admin::Answer::Status(status)) => {
            println!("{}", serde_json::json!(status));
            ExitCode::SUCCESS
        }
        Ok(other) => failed(&format!("the server answered something else: {other:?}")),
        Err(error) => failed(&format!("no server takes orders in {}: {error}", root.display())),
    }
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
