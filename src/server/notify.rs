//! Tells systemd how the service is (`Type=notify`): datagrams to the socket that it names, and nothing where it names none.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Connections are accepted; also the end of a reload.
    Ready,
    Reloading,
    Stopping,
    /// Alive: the threads that serve have time for this, too.
    Watchdog,
}

/// Tells it. Who cannot be told is no reason to do otherwise.
pub(super) fn tell(state: State) {
    if let Some(socket) = env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(&socket.to_string_lossy(), &text(state))
    {
        log::warn!("cannot tell systemd {state:?}: {error}");
    }
}

/// Tells that the service is alive, twice in each period after which systemd would restart it; returns at once where it would not.
pub(super) async fn keep_alive() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let Some(period) = number("WATCHDOG_USEC").filter(|period| *period > 0 && is_ours).map(Duration::from_micros) else { return };
    loop {
        tell(State::Watchdog);
        tokio::time::sleep(period / 2).await;
    }
}

fn text(state: State) -> String {
    match state {
        State::Ready => "READY=1".to_owned(),
        // The time tells this reload from an earlier one.
        State::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()),
        State::Stopping => "STOPPING=1".to_owned(),
        State::Watchdog => "WATCHDOG=1".to_owned(),
    }
}

fn send(socket: &str, text: &str) -> io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    // A full queue must not hold up who serves.
    datagram.set_nonblocking(true)?;
    match socket.strip_prefix('@') {
        Some(name) => datagram.send_to_addr(text.as_bytes(), &SocketAddr::from_abstract_name(name)?)?,
        None => datagram.send_to(text.as_bytes(), socket)?,
    };
    Ok(())
}

fn monotonic_micros() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the struct above, which outlives it; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}
