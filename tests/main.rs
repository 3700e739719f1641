//! The integration tests: the real binary on loopback, a fake Hub behind it, and clients in front.
//!
//! One binary, so it links once. `make test ARGS=cold::` runs one module.

mod harness; // the mirror as a process, an HTTP client that hides nothing, Python

mod access; // who may read what, in every state of repo, caller and cache; and while the Hub is down
mod alerts; // the webhook: what it is told, when, and what happens while it is away
mod api; // the API's listings and small answers, refusals and their codes, gates
mod browser; // the page in headless Chromium, with pictures
mod carry; // export and load: a tar for sites without a Hub, and hostile ones
mod clients; // huggingface_hub 0.36.2 (also with hf_transfer), 1.33.0 and 2.4.0, whole repos, every error class, HfFileSystem
mod cold; // many clients and one cold file; a client, then a mirror, that ends half-way
mod contract; // the Hub's contract, row by row: endpoints, names, errors, freshness, writes, rules
mod demo; // `make demo`: a real model, twice, with `hf download`
mod deploy; // what operators copy: unit, manifests, dashboard, alert rules, package; and what systemd is told
mod derived; // answers about a commit that follow from others, with the Hub down
mod disk; // a disk that is full or refuses
mod docs; // the pages of docs/: their commands are run, their messages and keys exist
mod endings; // SIGTERM and SIGKILL under load, and the next start
mod eviction; // what goes when room is needed, and what stays
mod fallbacks; // other upstreams while the first is down: what they say is not the Hub's word, and opens no bytes
mod faults; // what breaks upstream and on disk, and what a client sees of it
mod files; // one file in every shape of URL: headers, ranges, conditions
mod flights; // the state machine of flights in every order of events
mod fringes; // addresses of the API that lead to files, rules in other spellings, what is not there, many pages
mod fuzz; // the fuzz targets' entry points on stable, a moment each
mod hostile; // clients that mean harm: slow, greedy, malformed, many
mod import; // stores of DingoSpeed and Olah, caches of huggingface_hub: taken over, then downloaded without a Hub
mod keeper; // ls, rm, verify, gc and pin, beside a server and alone
mod matrix; // every fault of upstream against every way of asking
mod offline; // whole repos for every generation of clients without the Hub, after a restart, and what was pulled
mod panel; // the page's routes and the admin API: rights, lists, orders, pulls, many repos
mod patience; // how long a client waits in all, slow against down, and the status in which each release is told
mod process; // one process per directory, signals, numbers, log
mod pull; // dingospeed pull, alone and beside a server
mod ranges; // an upstream that ignores ranges, and large files
mod registry; // GGUF repos by /v2/, as llama.cpp, node-llama-cpp and Ollama ask
mod rename; // a repo gets another name: what is kept of it, and pins, follow
mod soak; // everything at once, at random
mod tidy; // the rooms of src/ and who may call whom
mod tls; // TLS for clients: real ones with a private CA, a new certificate, what is no TLS
mod upstream; // down, silent, slow to allow: breakers, several upstreams, proxies, rate limits
mod verdicts; // who gets a yes from which evidence, in every state of upstream; what nobody is told of other people's repos
