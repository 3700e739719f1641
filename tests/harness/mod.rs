//! The real binary in a test's hand, and who talks to it: a byte-exact HTTP client and Python with the Hub's clients.
//!
//! Enter by `Mirror::start(&hub)`; the upstream is `fake_hub::FakeHub`. Nothing here knows what a right answer is.

#![allow(dead_code, unused_imports, reason = "the words for the next test are here before the test is; two binaries use them")]

mod client;
mod confine;
mod mirror;
mod python;
mod relay;

pub(crate) use client::{Connection, Response, Sum};
pub(crate) use confine::{CallFault, ReadOnly};
pub(crate) use mirror::{Mirror, MirrorOptions, dingospeed, limit_file_size, program};
pub(crate) use python::{Python, Ran, browser_python, demo_python, root, run_within};
pub(crate) use relay::{ConnectProxy, Relay};
