//! Whose a token is, for when upstream cannot be asked: scripts begin with `login()`, which asks `whoami-v2` and ends them on a 5xx.
//!
//! It is told to the bearer of the same token only, for as long as that would be let in anywhere (`access.grace`), and opens
//! nothing: who may read what is asked apart. While upstream answers, it alone is believed.

use super::Access;
use crate::source::Token;
use crate::store::age;
use serde_json::{Map, Value};
use std::time::SystemTime;

/// What the hash of a token is bound to; a repo's has a slash.
const CONTEXT: &str = "whoami";
/// What is kept of an answer. What else the Hub tells is nobody's business here: mail addresses, means of payment.
const KEPT: [&str; 8] = ["type", "id", "name", "fullname", "isPro", "avatarUrl", "orgs", "auth"];
const KEPT_OF_ORGS: [&str; 7] = ["type", "id", "name", "fullname", "avatarUrl", "roleInOrg", "isEnterprise"];

impl Access {
    /// Remembers what upstream said of the bearer of this token; an answer that is no object is forgotten.
    pub(crate) async fn remember_holder(&self, token: &Token, answer: &[u8]) {
        let Ok(Value::Object(told)) = serde_json::from_slice(answer) else { return };
        let mut kept = only(told, &KEPT);
        if let Some(Value::Array(orgs)) = kept.get_mut("orgs") {
            for org in orgs {
                if let Value::Object(told) = org.take() {
                    *org = Value::Object(only(told, &KEPT_OF_ORGS));
                }
            }
        }
        let Some(mark) = self.mark(CONTEXT, Some(token)).await else { return };
        let store = self.store.clone();
        let put = move || store.refs().put_holder(&mark, Value::Object(kept), SystemTime::now());
        if let Ok(Err(e)) = tokio::task::spawn_blocking(put).await {
            log::warn!("cannot keep whose a token is: {e}");
        }
    }

    /// Upstream knows the token no more.
    pub(crate) async fn forget_holder(&self, token: &Token) {
        let Some(mark) = self.mark(CONTEXT, Some(token)).await else { return };
        let store = self.store.clone();
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || store.refs().remove_holder(&mark)).await {
            log::warn!("cannot forget whose a token is: {e}");
        }
    }

    /// What upstream said lately of the bearer of this token.
    pub(crate) async fn holder(&self, token: Option<&Token>) -> Option<Value> {
        let (grace, mark) = (self.grace?, self.mark(CONTEXT, token).await?);
        let store = self.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.refs().get_holder(&mark)).await.ok()?.ok()??;
        (age(kept.at) < grace).then_some(kept.answer)
    }
}

fn only(mut told: Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    told.retain(|name, _| names.contains(&name.as_str()));
    told
}
