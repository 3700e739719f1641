//! Who may change what is kept, over HTTP.

use super::Secret;
use std::{net::IpAddr, path::PathBuf};

/// The admin API. By default there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// `ADDR:PORT`; empty for none.
    pub listen: String,
    /// Empty for none.
    pub token: Secret,
    /// Empty for none; whoever reads the configuration from files puts its content into `token`.
    pub token_file: PathBuf,
}

impl Admin {
    /// Returns what is wrong with the keys together: a door that is open to other machines needs a token.
    pub fn mistake(&self) -> Option<String> {
        let is_open = !self.listen.is_empty() && self.token.expose().is_empty() && !is_loopback(&self.listen);
        is_open.then(|| {
            format!(
                "admin.listen = `{}`: is open to other machines, who would all be admins; set admin.token or admin.token_file, or \
                 listen on the loopback: `listen: 127.0.0.1:8091`",
                self.listen
            )
        })
    }
}

/// Whether only this machine's own programs reach `ADDR:PORT`. Other names than localhost are not looked up: they may lead elsewhere
/// tomorrow.
fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_token_only_the_loopback_will_do() {
        fn check(listen: &str, token: &str, is_mistake: bool) {
            let admin = Admin { listen: listen.into(), token: Secret::new(token), token_file: PathBuf::new() };
            assert_eq!(admin.mistake().is_some(), is_mistake, "{listen} {token}");
        }
        check("", "", false);
        for listen in ["127.0.0.1:8091", "127.9.9.9:1", "localhost:8091", "[::1]:8091"] {
            check(listen, "", false);
        }
        for listen in ["0.0.0.0:8091", "[::]:8091", "10.0.0.1:8091", "mirror.lan:8091", "[::ffff:0.0.0.0]:1"] {
            check(listen, "", true);
            check(listen, "sixteen letters!", false);
        }
    }
}
