//! The command line's entry.
use dingospeed::config::Config;

fn main() {
    env_logger::Builder::new().parse_filters("warn,dingospeed=info").init();
    let mut config = Config::default();
    let mut args = std::env::args().skip(2);
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_default();
        let (key, value) = match arg.as_str() {
            "--listen" => ("server.listen".to_owned(), value),
            "--repos" => ("store.repos".to_owned(), value),
            "--upstream" => ("upstream.url".to_owned(), value),
            _ => value.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap_or_default(),
        };
        if let Err(e) = config.apply(&key, &value) {
            eprintln!("{e}");
        }
    }
    if let Err(e) = dingospeed::server::run(&config) {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
