//! DingoSpeed: a self-hosted mirror of the Hugging Face Hub.

pub mod access;
pub mod config;
pub mod hub;
pub mod metrics;
pub mod mirror;
pub mod proxy;
pub mod server;
pub mod source;
pub mod store;
