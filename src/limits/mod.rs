//! How much one client may take: connections, and requests at a time, each waited for briefly and then refused.
//!
//! Knows addresses and counts; never HTTP. Enter by [`Limits`]: [`Limits::client`] says who asks, [`PerClient::enter`] lets
//! it in. What is taken is a [`Ticket`], which gives itself back when dropped.

mod client;

pub use client::{Client, fuzz_client};

use crate::config::{self, Network};
use crate::metrics::metrics;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limits of a mirror.
#[derive(Debug)]
pub struct Limits {
    pub connections: PerClient,
    pub requests: PerClient,
    trusted_proxies: Vec<Network>,
}

/// One limit, counted for each client by itself. Clients that hold nothing take no memory.
#[derive(Clone, Debug)]
pub struct PerClient {
    /// The configuration's name of the limit, for the refusal.
    pub key: &'static str,
    /// 0 means any number.
    pub most: u64,
    queue_timeout: Duration,
    clients: Arc<Mutex<HashMap<IpAddr, Room>>>,
}

/// What one client holds and waits for.
#[derive(Debug)]
struct Room {
    places: Arc<Semaphore>,
    /// Those inside and those that wait.
    present_count: u64,
}

/// Too many are inside, and too many wait, or the wait was too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A place that its holder has until this is dropped.
#[derive(Debug)]
pub struct Ticket {
    /// Given back before the count is, so that a room which is let go is empty.
    place: Option<OwnedSemaphorePermit>,
    presence: Option<Presence>,
}

/// One that is inside or waits.
#[derive(Debug)]
struct Presence {
    client: IpAddr,
    clients: Arc<Mutex<HashMap<IpAddr, Room>>>,
}

impl Limits {
    pub fn new(config: &config::Server) -> Limits {
        let per_client = |key, most| PerClient::new(key, most, config.queue_timeout);
        Limits {
            connections: per_client("server.connections_per_client", config.connections_per_client),
            requests: per_client("server.requests_per_client", config.requests_per_client),
            trusted_proxies: config.trusted_proxies.clone(),
        }
    }

    /// Says for whom `peer` speaks. `forwarded` are the values of its `X-Forwarded-For` headers, in order.
    pub fn client<'a>(&self, peer: Option<IpAddr>, forwarded: impl DoubleEndedIterator<Item = &'a [u8]>) -> Client {
        Client::of(peer, forwarded, &self.trusted_proxies)
    }
}

impl PerClient {
    fn new(key: &'static str, most: u64, queue_timeout: Duration) -> PerClient {
        // tokio's semaphores hold no more; the configuration allows far less.
        let most = most.min(Semaphore::MAX_PERMITS as u64);
        PerClient { key, most, queue_timeout, clients: Arc::default() }
    }

    /// Takes a place for `client`, waiting for one if all are taken: no longer than `server.queue_timeout`, and with no more
    /// others of this client than the limit itself. Dropping the future gives up the wait.
    pub async fn enter(&self, client: Client) -> Result<Ticket, Full> {
        let Some(client) = client.counted().filter(|_| self.most > 0) else {
            return Ok(Ticket { place: None, presence: None });
        };
        let (places, presence) = self.present(client)?;
        let place = match places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let _waits = Waiting::new();
                match tokio::time::timeout(self.queue_timeout, places.acquire_owned()).await {
                    Ok(Ok(place)) => place,
                    _ => return Err(Full),
                }
            }
        };
        Ok(Ticket { place: Some(place), presence: Some(presence) })
    }

    fn present(&self, client: IpAddr) -> Result<(Arc<Semaphore>, Presence), Full> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let room = clients
            .entry(client)
            .or_insert_with(|| Room { places: Arc::new(Semaphore::new(self.most as usize)), present_count: 0 });
        if room.present_count >= self.most.saturating_mul(2) {
            return Err(Full);
        }
        room.present_count += 1;
        Ok((room.places.clone(), Presence { client, clients: self.clients.clone() }))
    }

    /// Returns the clients that hold or wait for something, with how much.
    pub fn present_clients(&self) -> Vec<(IpAddr, u64)> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.iter().map(|(client, room)| (*client, room.present_count)).collect()
    }

    /// Returns how many clients hold or wait for something.
    pub fn client_count(&self) -> usize {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One that waits, counted in the metrics while it does.
struct Waiting;

impl Waiting {
    fn new() -> Waiting {
        metrics().clients_waiting.inc();
        Waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        metrics().clients_waiting.dec();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        drop(self.place.take());
        drop(self.presence.take());
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = clients.get_mut(&self.client) {
            room.present_count -= 1;
            if room.present_count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn limit(most: u64, queue_timeout: Duration) -> PerClient {
        PerClient::new("server.test", most, queue_timeout)
    }

    fn client(address: &str) -> Client {
        Client::of(Some(address.parse().unwrap()), std::iter::empty(), &[])
    }

    #[tokio::test]
    async fn one_client_does_not_crowd_out_another() {
        let limit = limit(2, MOMENT);
        let (greedy, modest) = (client("192.0.2.1"), client("192.0.2.2"));
        let first = limit.enter(greedy).await.unwrap();
        let _second = limit.enter(greedy).await.unwrap();
        assert_eq!(limit.enter(greedy).await.err(), Some(Full));
        assert!(limit.enter(modest).await.is_ok());
        drop(first);
        assert!(limit.enter(greedy).await.is_ok());
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_place() {
        let limit = limit(1, PATIENCE);
        let client = client("192.0.2.1");
        let first = limit.enter(client).await.unwrap();
        let waits = limit.enter(client);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(MOMENT, &mut waits).await.is_err(), "there is no place yet");
        drop(first);
        assert!(waits.await.is_ok());
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_nothing_stays_behind() {
        let limit = limit(2, PATIENCE);
        let client = client("192.0.2.1");
        let inside = [limit.enter(client).await.unwrap(), limit.enter(client).await.unwrap()];
        {
            let (first, second) = (limit.enter(client), limit.enter(client));
            tokio::pin!(first, second);
            assert!(tokio::time::timeout(MOMENT, async { tokio::join!(&mut first, &mut second) }).await.is_err());
            assert_eq!(limit.enter(client).await.err(), Some(Full), "one too many does not even wait");
        }
        // Both waits were given up, so another may begin.
        assert!(tokio::time::timeout(MOMENT, limit.enter(client)).await.is_err());
        assert_eq!(limit.client_count(), 1);
        drop(inside);
        assert_eq!(limit.client_count(), 0);
    }

    #[tokio::test]
    async fn zero_is_no_limit() {
        let limit = limit(0, MOMENT);
        let mut tickets = Vec::new();
        for _ in 0..1000 {
            tickets.push(limit.enter(client("192.0.2.1")).await.unwrap());
        }
        assert_eq!(limit.client_count(), 0);
    }
}
