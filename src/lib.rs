//! DingoSpeed: a self-hosted mirror of the Hugging Face Hub.

pub mod config;
pub mod hub;
pub mod store;
